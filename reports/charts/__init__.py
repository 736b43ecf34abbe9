"""Charts of the report's pages, as plain data."""
