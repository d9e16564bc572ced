"""Graph passes: one file and one function each; see `outcome` for the contract."""
