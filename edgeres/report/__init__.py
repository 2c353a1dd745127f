"""`report.json` and the table a person reads."""
