"""Model families, one file each, found by discovery: a new family edits nothing here."""
