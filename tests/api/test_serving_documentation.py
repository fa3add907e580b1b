"""/docs: a page made of the OpenAPI document, which loads nothing from elsewhere and runs nothing."""

from html.parser import HTMLParser

import pytest

from fashiondpo.serving.documentation import documentation_page
from services.trainer.app import create_app
from services.trainer.settings import TrainerSettings


class Page(HTMLParser):
    """Tags, attributes and text of a page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.words = ""
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))

    def handle_data(self, data):
        self.words += data


@pytest.fixture(scope="module")
def document():
    return create_app(TrainerSettings(redis_url=None)).openapi()


@pytest.fixture(scope="module")
def page(document):
    return Page(documentation_page(document))


class TestDocumentation:
    def test_names_every_route_and_every_schema_of_the_service(self, page, document):
        ids = {attributes.get("id") for _, attributes in page.tags}
        routes = {
            f"{method}{path}".translate({123: None, 125: None})
            for path, of in document["paths"].items()
            for method in of
        }
        assert len(routes) > 5
        assert routes | set(document["components"]["schemas"]) <= ids
        assert all(field in page.words for field in document["components"]["schemas"]["RoundView"]["properties"])

    def test_links_only_to_what_is_on_it_and_to_the_document(self, page):
        ids = {attributes.get("id") for _, attributes in page.tags}
        targets = {attributes["href"] for tag, attributes in page.tags if tag == "a"}
        assert {target for target in targets if target.removeprefix("#") not in ids} == {"openapi.json"}

    def test_loads_nothing_and_runs_nothing(self, page, document):
        assert {tag for tag, _ in page.tags} & {"script", "link", "img", "iframe", "object", "form"} == set()
        assert "http" not in documentation_page(document).partition("<body>")[0]

    def test_shows_text_as_text(self):
        evil = {
            "info": {"title": "<script>a</script>", "version": "1"},
            "paths": {"/x": {"get": {"description": "a `<b>` <script>b</script>", "responses": {}}}},
            "components": {
                "schemas": {"S": {"properties": {"f": {"type": "string", "default": "<script>c</script>"}}}}
            },
        }
        page = Page(documentation_page(evil))
        assert "script" not in {tag for tag, _ in page.tags}
        assert all(f"<script>{letter}</script>" in page.words for letter in "abc")

    def test_tells_what_may_be_left_out_and_between_which_limits(self):
        fields = {"n": {"type": "integer", "minimum": 2, "maximum": 32, "default": 7}, "s": {"type": "string"}}
        schema = {"properties": fields, "required": ["s"]}
        words = Page(
            documentation_page(
                {"info": {"title": "t", "version": "1"}, "paths": {}, "components": {"schemas": {"S": schema}}}
            )
        ).words
        assert "integer (may be left out)≥ 2, ≤ 32, default 7" in words
        assert "string (may be left out)" not in words
