"""Programs and tools of other projects that talk to a server of ours, in an environment of their own."""
