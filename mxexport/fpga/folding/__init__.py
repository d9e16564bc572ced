"""Which foldings: estimates, budgets, and the designs that no other beats."""
