"""Adapters to other servers, one module for each host. Importing this imports none of them."""
