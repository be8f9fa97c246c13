"""API server: serving defaults, the admission check and `/metrics`. Nothing here touches a tensor."""
