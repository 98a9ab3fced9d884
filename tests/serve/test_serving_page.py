"""The page on serving says what is true: its code runs, its fields and options exist."""

import json
import re
from pathlib import Path

from click.testing import CliRunner
from serve.serve_fakes import FakeModel, make_server

from vidcomp.llm.engines import _QWEN
from vidcomp.pipelines.cli import main
from vidcomp.pipelines.serve.limits import Limits
from vidcomp.pipelines.serve.schema import parse_chat

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "serving.md").read_text()


def blocks(language):
    return re.findall(rf"^```{language}\n(.*?)^```", PAGE, flags=re.MULTILINE | re.DOTALL)


def test_the_code_runs():
    (code,) = blocks("python")
    exec(compile(code, "docs/serving.md", "exec"), {})


def test_the_question_is_one():
    (body,) = blocks("json")
    asked = parse_chat(body.encode(), Limits())
    assert (asked.budget, asked.method, asked.stream) == ("10%", "tome", True)
    assert json.loads(body)["messages"][0]["content"][0]["type"] == "video_url"


def test_options_and_their_defaults_are_those_of_the_command():
    told = CliRunner().invoke(main, ["serve", "--help"]).output
    for option in set(re.findall(r"`?(--[a-z][a-z-]+)", PAGE)):
        assert f"{option} " in told, option
    options = {option.opts[0]: option.default for option in main.commands["serve"].params}
    rows = re.findall(r"^\| `(--[a-z-]+)` \| (\d+) \|", PAGE, flags=re.MULTILINE)
    assert len(rows) == 5
    for option, default in rows:
        assert options[option] == int(default)
    limits = Limits()
    assert limits.upload_bytes == options["--max-upload-mb"] << 20
    assert limits.stored_bytes == options["--max-stored-mb"] << 20
    assert (limits.waiting, limits.connections) == (options["--queue"], options["--connections"])
    assert limits.new_tokens == options["--max-new-tokens"]
    for number in (f"{limits.videos} videos", f"{limits.idle_s:g} s is", f"({limits.fetch_s:g} s)"):
        assert number in PAGE.replace("\n", " ")


def test_paths_are_those_of_the_application(tmp_path):
    from vidcomp.pipelines.serve.app import make_app

    server = make_server(tmp_path, FakeModel())
    app = make_app(server)._app
    found = {
        (method, re.sub(r"\{\w+(:path)?\}", "{}", route.path))
        for route in app.routes
        for method in route.methods - {"HEAD"}
    }
    server.close()
    told = re.findall(r"^\| `(GET|POST|DELETE) (/\S*)` \|", PAGE, flags=re.MULTILINE)
    made = {(method, re.sub(r"\{\w+\}", "{}", path)) for method, path in told}
    made.discard(("GET", "/v1/files/{}/content"))  # the same route as what is known of a file
    made.add(("GET", "/v1/models/{}"))
    assert made == found


def test_models_of_engines_are_named():
    assert len(_QWEN) == 6
    for title in ("Qwen2-VL", "Qwen2.5-VL", "Qwen3-VL", "Qwen3.5"):
        assert title in PAGE
