"""What people read of a model or a design: one HTML page without network or scripts, and the same data as JSON."""
