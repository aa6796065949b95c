"""The pages under /ui on the admin port: edits, playground, audit, metrics, health; drawn here, for a plain browser.

static/htmx.min.js is htmx 2.0.10 (htmx.org, licence 0BSD), unchanged; every page does its work without it as well.
"""

from lte.serve.pages.browser import Browser
from lte.serve.pages.routes import page_routes
from lte.serve.pages.site import Site

__all__ = ["Browser", "Site", "page_routes"]
