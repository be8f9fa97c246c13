"""Tests that a server of either engine must pass, written once; `setups.on` names the servers of the engine at hand."""
