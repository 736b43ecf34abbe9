"""The charts of the report's pages are plain data."""
