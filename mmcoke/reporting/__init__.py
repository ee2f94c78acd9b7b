"""What people read: tables, pages, galleries."""
