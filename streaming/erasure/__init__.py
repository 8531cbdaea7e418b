"""A caller's data in what the platform keeps outside the warehouse: landing files and live state."""
