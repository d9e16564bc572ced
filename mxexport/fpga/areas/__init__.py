"""What things take of a device, and what devices have."""
