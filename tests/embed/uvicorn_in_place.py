"""A plugin of pytest: kacore's Protocol stands where uvicorn's tests look for the httptools one."""

import uvicorn.protocols.http.httptools_impl as impl

from kacore.embed.uvicorn import Protocol

impl.HttpToolsProtocol = Protocol
