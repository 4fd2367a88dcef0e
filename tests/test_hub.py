"""Weights on the Hugging Face Hub, against a small one on this machine, and without any."""

import hashlib
import json
import os
import re
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import huggingface_hub
import pytest
from published import save_timm

from src.pretrained.hub import _answers, fetch_model
from src.pretrained.published import find_published

COMMIT = "0123456789abcdef0123456789abcdef01234567"
NAME = "timm:vit_tiny_patch16_224.made_in_this_test"
REPOSITORY = "timm/vit_tiny_patch16_224.made_in_this_test"


class Hub(BaseHTTPRequestHandler):
    """Answers as the Hub does for files of a repository; `files` holds them, `asked` what was asked for."""

    files: dict[str, bytes] = {}
    asked: list[str] = []

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        found = re.fullmatch(rf"/{re.escape(REPOSITORY)}/resolve/main/(.+)", self.path)
        type(self).asked.append(f"{self.command} {self.path}")
        content = self.files.get(found[1]) if found else None
        gated = self.path.startswith("/gated/")
        self.send_response(200 if content is not None else 403 if gated else 404)
        if content is None:
            code = "GatedRepo" if gated else "EntryNotFound" if found else "RepoNotFound"
            self.send_header("X-Error-Code", code)
        self.send_header("X-Repo-Commit", COMMIT)
        self.send_header("ETag", f'"{hashlib.sha1(content or b"").hexdigest()}"')
        self.send_header("Content-Length", str(len(content or b"")))
        self.end_headers()
        if content and self.command == "GET":
            self.wfile.write(content)

    def log_message(self, *arguments: object) -> None:
        pass


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[type[Hub]]:
    """A hub with one model, and an empty cache."""
    save_timm(tmp_path / "model", pretrained_cfg={"mean": [0.5] * 3, "std": [0.25] * 3})  # the license is in README.md
    (tmp_path / "model" / "README.md").write_text("---\nlicense: apache-2.0\n---\n# A model\n")
    Hub.files, Hub.asked = {path.name: path.read_bytes() for path in (tmp_path / "model").iterdir()}, []
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    _answers.cache_clear()
    with ThreadingHTTPServer(("127.0.0.1", 0), Hub) as server:
        monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{server.server_port}")
        monkeypatch.setenv("no_proxy", "*")
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield Hub
        server.shutdown()


def test_a_model_of_timm_is_fetched_once_and_then_found_without_a_network(
    hub: type[Hub], monkeypatch: pytest.MonkeyPatch
) -> None:
    found = find_published(NAME)
    assert found.origin.model["embedding_dim"] == 192 and found.origin.dataset["std"] == [0.25] * 3
    assert found.card.license == "apache-2.0" and found.origin.name == NAME
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    before = list(hub.asked)
    assert find_published(f"hf-hub:{REPOSITORY}").path == found.path and hub.asked == before


def test_large_weights_are_fetched_in_all_their_parts(hub: type[Hub]) -> None:
    whole = hub.files.pop("model.safetensors")
    hub.files["model-00001-of-00001.safetensors"] = whole
    hub.files["model.safetensors.index.json"] = json.dumps(
        {"weight_map": {"head.bias": "model-00001-of-00001.safetensors"}}
    ).encode()
    folder = fetch_model(NAME)
    assert (folder / "model-00001-of-00001.safetensors").read_bytes() == whole


def test_what_the_hub_does_not_give_is_explained(hub: type[Hub]) -> None:
    with pytest.raises(ValueError, match="the Hugging Face Hub has no nobody/nothing, or it is private: hf auth login"):
        fetch_model("hf-hub:nobody/nothing")
    with pytest.raises(ValueError, match="gated/model asks for its terms to be accepted; do so on its page"):
        fetch_model("hf-hub:gated/model")
    del hub.files["model.safetensors"]
    with pytest.raises(ValueError, match="cannot be fetched: it has none of model.safetensors, "):
        fetch_model(NAME)


@pytest.mark.parametrize("offline", [True, False])
def test_without_a_network_the_answer_comes_at_once_with_the_command_for_elsewhere(
    offline: bool, hub: type[Hub], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", offline)
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")  # nobody listens there
    with pytest.raises(ValueError) as error:
        fetch_model(NAME)
    why = "HF_HUB_OFFLINE is set" if offline else "the Hugging Face Hub does not answer"
    assert str(error.value) == (
        f"init.weights={NAME} is not in the cache of Hugging Face, and {why}; where there is a network, run\n"
        f"  hf download {REPOSITORY} --local-dir vit_tiny_patch16_224.made_in_this_test\n"
        "then copy that folder here and type init.weights=vit_tiny_patch16_224.made_in_this_test"
    )


def test_a_hub_that_never_answers_is_given_up(hub: type[Hub], monkeypatch: pytest.MonkeyPatch) -> None:
    answered = threading.Event()

    def wait(*_: object) -> None:
        answered.wait()
        raise OSError

    monkeypatch.setattr("src.pretrained.hub.socket.create_connection", wait)
    monkeypatch.setattr("src.pretrained.hub.PATIENCE", 0.01)
    with pytest.raises(ValueError, match="the Hugging Face Hub does not answer"):
        fetch_model(NAME)
    answered.set()


def test_what_another_program_has_cached_is_completed(hub: type[Hub], monkeypatch: pytest.MonkeyPatch) -> None:
    # All that timm itself fetches.
    huggingface_hub.hf_hub_download(REPOSITORY, "model.safetensors", endpoint=os.environ["HF_ENDPOINT"])
    assert find_published(NAME).origin.dataset["std"] == [0.25] * 3


def test_a_hub_that_fails_is_not_taken_for_one_that_has_no_such_file(
    hub: type[Hub], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise huggingface_hub.errors.LocalEntryNotFoundError("503")

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", fail)
    with pytest.raises(ValueError, match="the Hugging Face Hub does not answer; where there is a network, run"):
        fetch_model(NAME)


def test_the_usual_tag_of_a_model_is_timms(hub: type[Hub]) -> None:
    with pytest.raises(
        ValueError, match=r"the Hugging Face Hub has no timm/vit_small_patch16_224\.augreg_in21k_ft_in1k"
    ):
        fetch_model("timm:vit_small_patch16_224")
    with pytest.raises(ValueError, match=r"timm has no weights of this name; did you mean timm:vit_small_patch16_224"):
        fetch_model("timm:vit_smal_patch16_22")
