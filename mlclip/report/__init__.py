"""Labels as HTML pages."""
