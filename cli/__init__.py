"""The command line of certnas: click and rich, no mathematics."""
