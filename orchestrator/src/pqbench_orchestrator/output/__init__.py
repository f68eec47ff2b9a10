"""What users see of results: terminal, report, web pages, bundles."""
