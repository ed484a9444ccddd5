"""HTML pages about labels."""
