"""Hello through a framework, whose own cost every server pays alike. Imported only by the servers that serve one."""

import os

if os.environ["BENCH_APP"] == "starlette":
    from starlette.applications import Starlette
    from starlette.responses import PlainTextResponse
    from starlette.routing import Route

    async def hello(request):
        return PlainTextResponse("Hello, world!")

    asgi_starlette = Starlette(routes=[Route("/", hello)])

elif os.environ["BENCH_APP"] == "fastapi":
    from fastapi import FastAPI
    from fastapi.responses import PlainTextResponse

    asgi_fastapi = FastAPI()

    @asgi_fastapi.get("/", response_class=PlainTextResponse)
    async def hello():
        return "Hello, world!"

elif os.environ["BENCH_APP"] == "flask":
    from flask import Flask

    wsgi_flask = Flask(__name__)

    @wsgi_flask.get("/")
    def hello():
        return "Hello, world!", 200, {"content-type": "text/plain"}

elif os.environ["BENCH_APP"] == "django":
    import django
    from django.conf import settings
    from django.core.asgi import get_asgi_application
    from django.core.wsgi import get_wsgi_application
    from django.http import HttpResponse
    from django.urls import path

    settings.configure(ROOT_URLCONF=__name__, ALLOWED_HOSTS=["*"], SECRET_KEY="for a bench", LOGGING_CONFIG=None)
    django.setup()

    async def hello(request):
        return HttpResponse("Hello, world!", content_type="text/plain")

    def hello_sync(request):
        return HttpResponse("Hello, world!", content_type="text/plain")

    urlpatterns = [path("", hello if os.environ.get("BENCH_INTERFACE") == "asgi" else hello_sync)]
    asgi_django = get_asgi_application()
    wsgi_django = get_wsgi_application()
