"""A plugin of pytest: kacore's classes in the place of aiohttp's, for aiohttp's own tests."""

import aiohttp.test_utils
import aiohttp.web
import aiohttp.web_protocol
import aiohttp.web_runner
import aiohttp.web_server

from kacore.embed import aiohttp as adapter

for module in (aiohttp.web, aiohttp.web_runner, aiohttp.test_utils):
    module.AppRunner = adapter.AppRunner
for module in (aiohttp.web, aiohttp.web_server, aiohttp.test_utils):
    module.Server = adapter.Server
for module in (aiohttp.web, aiohttp.web_protocol):
    module.RequestHandler = adapter.RequestHandler
aiohttp.web.run_app = adapter.run_app
