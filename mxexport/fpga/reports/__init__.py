"""What is said of a design, as data, as a page and as FINN says it."""
