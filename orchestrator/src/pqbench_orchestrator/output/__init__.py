"""What people look at: terminal, report, web pages, bundles."""
