"""The command line and what it stands on: a client, measuring, arithmetic tables, training and the web page."""
