"""Loaders of Difix weights: what they read, what they refuse, and that nothing in a folder ever runs."""

from __future__ import annotations

import contextlib
import functools
import http.server
import json
import pickle
import shutil
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import huggingface_hub
import pytest
import torch
from safetensors.torch import load_file, save_file

from difix3d_ns import cli
from difix3d_ns.errors import UserError
from difix3d_ns.priors.difix import DifixFixer
from difix3d_ns.priors.difix import load as load_difix
from difix3d_ns.priors.published import hub
from difix3d_ns.priors.published.checkpoint import convert
from difix3d_ns.priors.published.prompt import prompt_embedding
from tests.unit.known_scenes import requests_of
from tests.unit.official_difix import UNET, Official, write_text_encoder

VAE_FILE = "vae/diffusion_pytorch_model.safetensors"
UNET_FILE = "unet/diffusion_pytorch_model.safetensors"


@pytest.fixture(scope="module")
def official() -> Official:
    return Official()


@pytest.fixture(scope="module")
def original(official: Official, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return official.write(tmp_path_factory.mktemp("difix_ref"))


@pytest.fixture
def folder(original: Path, tmp_path: Path) -> Path:
    """A copy to spoil."""
    return Path(shutil.copytree(original, tmp_path / "difix_ref"))


def load(folder: Path) -> DifixFixer:
    return load_difix(str(folder), dtype=torch.float32)


def _made(folder: Path) -> Path:
    folder.mkdir()
    return folder


def agrees(official: Official, fixer: DifixFixer, atol: float = 1e-4) -> None:
    (request,) = requests_of(97, 131, 1)
    expected = official.repair(request.image, [reference.image for reference in request.references]).float()
    torch.testing.assert_close(fixer.fix([request])[0].image, expected, atol=atol, rtol=0)


class Trap:
    """Leaves a mark when it is unpickled."""

    def __init__(self, mark: Path):
        self.mark = mark

    def __reduce__(self) -> tuple[object, ...]:
        return Path.touch, (self.mark,)


def booby_trap(folder: Path, mark: Path) -> None:
    """Python files and pickles wherever a careless loader would look, each of which leaves the mark."""
    code = f"import pathlib\npathlib.Path({str(mark)!r}).touch()\n"
    for name in (
        *("pipeline_difix.py", "pipeline.py", "unet/unet_2d_condition.py", "vae/autoencoder_kl.py", "__init__.py"),
        *("unet/__init__.py", "vae/__init__.py", "text_encoder/modeling.py", "tokenizer/tokenization.py"),
        *("scheduler/scheduling.py", "setup.py", "conftest.py", "sitecustomize.py"),
    ):
        file = folder / name
        file.parent.mkdir(exist_ok=True)
        file.write_text(code)
    for name in (
        *("unet/diffusion_pytorch_model.bin", "vae/diffusion_pytorch_model.bin", "text_encoder/pytorch_model.bin"),
        *("tokenizer/added_tokens.pkl", "prompt_embedding.pt", "model.pkl"),
    ):
        (folder / name).write_bytes(pickle.dumps(Trap(mark)))


def test_the_traps_work(tmp_path: Path):
    booby_trap(tmp_path / "x" if (tmp_path / "x").mkdir() is None else tmp_path, tmp_path / "mark")
    pickle.loads((tmp_path / "x" / "model.pkl").read_bytes())
    assert (tmp_path / "mark").exists()
    (tmp_path / "mark").unlink()
    exec((tmp_path / "x" / "pipeline_difix.py").read_text())
    assert (tmp_path / "mark").exists()


def test_nothing_in_a_folder_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    official = Official()
    folder, mark = official.write(tmp_path / "difix_ref", text_encoder=True), tmp_path / "mark"
    booby_trap(folder, mark)
    for part, entry in (("unet", "AutoModel"), ("vae", "AutoModel"), ("text_encoder", "AutoModel")):
        config = folder / part / "config.json"
        map_ = {entry: "modeling.Model", "AutoConfig": "modeling.Config"}
        config.write_text(json.dumps({**json.loads(config.read_text()), "auto_map": map_}))
    tokenizer = folder / "tokenizer" / "tokenizer_config.json"
    tokenizer.write_text(
        json.dumps({**json.loads(tokenizer.read_text()), "auto_map": {"AutoTokenizer": ["tokenization.T", None]}})
    )
    monkeypatch.chdir(folder)  # nor if it is where Python looks first
    monkeypatch.syspath_prepend(str(folder))
    before = set(sys.modules)
    agrees(official, load(folder))
    assert not mark.exists()
    assert not {name for name in set(sys.modules) - before if str(folder) in str(sys.modules[name])}


def test_a_malicious_checkpoint_does_not_run(original: Path, tmp_path: Path):
    mark = tmp_path / "mark"
    file = tmp_path / "model_10001.pkl"
    content = {"state_dict_unet": {}, "state_dict_vae": {}, "optimizer": Trap(mark)}
    for write in (lambda: torch.save(content, file), lambda: file.write_bytes(pickle.dumps(content))):
        write()
        with pytest.raises(UserError, match=r"model_10001\.pkl can't be read safely"):
            convert(file, str(original), tmp_path / "out")
        assert not mark.exists()
        assert not (tmp_path / "out").exists()
    with pytest.raises(FileNotFoundError, match="difix3d convert"):
        load(file)
    assert not mark.exists()


@pytest.mark.parametrize("with_reference", [True, False])
def test_both_published_folders(official: Official, tmp_path: Path, with_reference: bool):
    """Of one that was trained without references the official pipeline ignores them, and so does ours."""
    fixer = load(official.write(tmp_path / "w", with_reference))
    (request,) = requests_of(97, 131, 1)
    expected = official.repair(request.image, [r.image for r in request.references if with_reference]).float()
    (result,) = fixer.fix([request])
    torch.testing.assert_close(result.image, expected, atol=1e-4, rtol=0)
    assert result.confidence.max() == 0  # of pictures without geometry
    said = "" if with_reference else "this Difix model was trained without reference photos: they are ignored"
    assert fixer.describe(1).startswith(said) and bool(fixer.describe(1)) is not with_reference
    assert ("trained with 1 reference photo beside each picture and is shown 3" in fixer.describe(3)) is with_reference


def test_unknown_classes_mean_nothing(official: Official, folder: Path):
    (folder / "model_index.json").write_text(json.dumps({"_class_name": "os.system", "unet": ["evil", "Nothing"]}))
    for part in ("unet", "vae"):
        config = json.loads((folder / part / "config.json").read_text())
        (folder / part / "config.json").write_text(json.dumps({**config, "_class_name": "Unheard"}))
    agrees(official, load(folder))
    (folder / "model_index.json").unlink()
    agrees(official, load(folder))


@pytest.mark.parametrize("name", [UNET_FILE, VAE_FILE])
def test_missing_and_surplus_keys_are_named(folder: Path, name: str):
    state = load_file(folder / name)
    gone = next(key for key in state if key.endswith("conv_in.weight") or key.endswith("conv_in.base_layer.weight"))
    value = state.pop(gone)
    save_file(state | {"stranger.weight": torch.zeros(1)}, folder / name)
    plain = gone.replace(".base_layer", "").replace(".", r"\.")
    with pytest.raises(RuntimeError, match=rf"1 missing: {plain}; .*not known: .*stranger\.weight"):
        load(folder)
    save_file(state | {gone: value[:1].clone()}, folder / name)
    with pytest.raises(RuntimeError, match=r"another shape|must match|invalid for input"):
        load(folder)


@pytest.mark.parametrize("side", ["A", "B"])
def test_the_missing_half_of_an_adapter_is_named(folder: Path, side: str):
    state = load_file(folder / VAE_FILE)
    gone = f"decoder.conv_out.lora_{side}.vae_skip.weight"
    del state[gone]
    save_file(state, folder / VAE_FILE)
    with pytest.raises(RuntimeError, match=rf"vae: the weights are incomplete; 1 missing: {gone}$".replace(".", r"\.")):
        load(folder)


def _without(checkpoint: Path, part: str, *gone: str) -> None:
    content = torch.load(checkpoint, weights_only=True)
    for name in gone:
        del content[part][name]
    torch.save(content, checkpoint)


@pytest.mark.parametrize(
    ("part", "gone"),
    [
        ("state_dict_unet", ("conv_in.weight", "conv_out.bias")),
        ("state_dict_vae", ("decoder.conv_in.lora_A.vae_skip.weight",)),
        ("state_dict_vae", ("decoder.conv_in.lora_A.vae_skip.weight", "decoder.conv_in.lora_B.vae_skip.weight")),
        ("state_dict_vae", ("decoder.skip_conv_2.base_layer.weight",)),
    ],
)
def test_partial_checkpoints_are_named_as_such(
    official: Official, original: Path, tmp_path: Path, part: str, gone: tuple[str, ...]
) -> None:
    checkpoint = official.write_checkpoint(tmp_path / "model_1.pkl")
    _without(checkpoint, part, *gone)
    names = ", ".join(name.replace(".base_layer", "") for name in gone)
    message = rf"model_1.pkl is a partial checkpoint; in {part} {len(gone)} missing: {names}. Copy it again"
    with pytest.raises(UserError, match=message.replace(".", r"\.")):
        convert(checkpoint, str(original), tmp_path / "out")
    content = torch.load(checkpoint, weights_only=True)
    del content[part]
    torch.save(content, checkpoint)
    with pytest.raises(UserError, match=rf"is a partial checkpoint of the official training: {part} missing \(found"):
        convert(checkpoint, str(original), tmp_path / "out")
    assert not list(tmp_path.glob("out*"))


def test_an_incomplete_base_is_not_the_checkpoints_fault(official: Official, tmp_path: Path) -> None:
    checkpoint, base = official.write_checkpoint(tmp_path / "model_1.pkl"), official.write_base(tmp_path / "base")
    for gone in ("encoder.conv_in.weight", "decoder.conv_in.weight"):
        state = load_file(base / VAE_FILE)
        del state[gone]
        save_file(state, base / VAE_FILE)
        with pytest.raises(UserError, match=rf"--base .*base: vae/ is incomplete; \d missing: .*{gone}"):
            convert(checkpoint, str(base), tmp_path / "out")


@pytest.mark.parametrize("converted", [False, True])
def test_attention_names_of_before_diffusers_018(official: Official, tmp_path: Path, converted: bool) -> None:
    older = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}
    folder = official.write_base(tmp_path / "sd-turbo") if converted else official.write(tmp_path / "difix_ref")
    state = {}
    for key, value in load_file(folder / VAE_FILE).items():
        new = next((name for name in older if f".{name}." in key and "attentions" in key), "")
        state[key.replace(f".{new}.", f".{older[new]}.") if new else key] = value
    assert "encoder.mid_block.attentions.0.query.weight" in state and not any(".to_q." in key for key in state)
    save_file(state, folder / VAE_FILE)
    if converted:
        folder = convert(official.write_checkpoint(tmp_path / "model_1.pkl"), str(folder), tmp_path / "out")
    agrees(official, load(folder))


def test_convert_writes_nothing_into_its_base(tmp_path: Path) -> None:
    official = Official()
    checkpoint, base = official.write_checkpoint(tmp_path / "model_1.pkl"), official.write_base(tmp_path / "base")
    (base / "prompt_embedding.safetensors").unlink()
    official.prompt = write_text_encoder(base, UNET["cross_attention_dim"]).double()
    places = [base, *base.rglob("*")]
    before = {path: (path.stat().st_mtime_ns, path.stat().st_size) for path in places}
    for path in places:
        path.chmod(0o555 if path.is_dir() else 0o444)
    try:
        output = convert(checkpoint, str(base), tmp_path / "out")
        assert {path: (path.stat().st_mtime_ns, path.stat().st_size) for path in [base, *base.rglob("*")]} == before
    finally:
        for path in places:
            path.chmod(0o755)
    agrees(official, load(output))
    for path in (output, *output.rglob("*")):
        assert path.stat().st_mode & 0o200  # what comes from a folder that is read-only is not so itself


def test_a_bfloat16_checkpoint_loses_nothing(tmp_path: Path) -> None:
    """What the official recipe writes; merged weights rounded to bfloat16 again were 35 dB further off."""
    official = Official()
    checkpoint = official.write_checkpoint(tmp_path / "model_1.pkl", torch.bfloat16)
    output = convert(checkpoint, str(official.write_base(tmp_path / "base")), tmp_path / "out")
    state = load_file(output / VAE_FILE)
    assert state["decoder.skip_conv_1.weight"].dtype == torch.float32
    assert {value.dtype for value in load_file(output / UNET_FILE).values()} == {torch.bfloat16}  # as they are
    (request,) = requests_of(96, 128, 1)
    expected = official.repair(request.image, [reference.image for reference in request.references])
    error = load(output).fix([request])[0].image.double() - expected
    assert -10 * error.square().mean().log10() >= 105


@pytest.mark.parametrize("references", [0, 3])
def test_convert_notes_the_number_of_views_of_the_training(
    official: Official, original: Path, tmp_path: Path, references: int
) -> None:
    checkpoint = official.write_checkpoint(tmp_path / "model_1.pkl")
    fixer = load(convert(checkpoint, str(original), tmp_path / "out", references=references))
    assert fixer.trained_references == fixer.default_references == references
    with pytest.raises(UserError, match="--references -1: at least 0"):
        convert(checkpoint, str(original), tmp_path / "other", references=-1)


@pytest.mark.parametrize("tokenizer", ["parts", "old", "decoder", "whole"])
def test_tokenizers_of_several_layouts(tmp_path: Path, tokenizer: str) -> None:
    expected = write_text_encoder(tmp_path, 16, tokenizer)
    torch.testing.assert_close(prompt_embedding(tmp_path, keep=False), expected, atol=1e-5, rtol=1e-5)
    other = write_text_encoder(_made(tmp_path / "x"), 16, "parts" if tokenizer != "parts" else "old")
    assert (other - expected).abs().max() > 0.1  # the padding matters
    for name in ("vocab.json", "merges.txt", "tokenizer.json"):
        (tmp_path / "tokenizer" / name).unlink(missing_ok=True)
    with pytest.raises(FileNotFoundError, match=r"tokenizer/vocab\.json is missing"):
        prompt_embedding(tmp_path, keep=False)


def test_without_skips_it_is_no_difix(official: Official, tmp_path: Path):
    folder = official.write_base(tmp_path / "sd-turbo")
    shutil.copy(official.write(tmp_path / "w") / UNET_FILE, folder / UNET_FILE)
    with pytest.raises(RuntimeError, match=r"4 missing: decoder\.skip_conv_1\.weight, decoder\.skip_conv_2"):
        load(folder)


@pytest.mark.parametrize(
    ("name", "what"),
    [
        (UNET_FILE, "half"),
        (VAE_FILE, "half"),
        (VAE_FILE, "empty"),
        (UNET_FILE, "pointer"),
        ("unet/config.json", "half"),
        ("scheduler/scheduler_config.json", "half"),
        ("prompt_embedding.safetensors", "half"),
    ],
)
def test_half_downloaded_files_are_named(folder: Path, name: str, what: str):
    file = folder / name
    whole = file.read_bytes()
    pointer = b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 3460000000\n"
    file.write_bytes({"half": whole[: len(whole) // 2], "empty": b"", "pointer": pointer}[what])
    with pytest.raises(RuntimeError, match=f"{file.name} is damaged.*{'git lfs pull' if what == 'pointer' else ''}"):
        load(folder)


@pytest.mark.parametrize("name", [UNET_FILE, VAE_FILE, "vae/config.json", "scheduler/scheduler_config.json"])
def test_missing_files_are_named(folder: Path, name: str):
    (folder / name).unlink()
    if name == UNET_FILE:
        (folder / "unet" / "diffusion_pytorch_model.bin").write_bytes(b"")
    with pytest.raises(FileNotFoundError, match=f"{name} is missing" + (".*pickle" if name == UNET_FILE else "")):
        load(folder)


def test_wrong_folders(tmp_path: Path):
    with pytest.raises(FileNotFoundError, match=r"gone: no such folder"):
        load(tmp_path / "gone")
    (tmp_path / "renders").mkdir()
    (tmp_path / "renders" / "a.png").touch()
    with pytest.raises(FileNotFoundError, match=r"renders holds no Difix weights: unet/ is missing \(found a\.png\)"):
        load(tmp_path / "renders")
    with pytest.raises(FileNotFoundError, match="is a file"):
        load(tmp_path / "renders" / "a.png")


def test_half_precision_weights(official: Official, folder: Path):
    """In the plain file or in a variant's; computed in float32 all the same."""
    for name in (UNET_FILE, VAE_FILE):
        state = {key: value.half() for key, value in load_file(folder / name).items()}
        (folder / name).unlink()
        save_file(state, (folder / name).with_suffix(".fp16.safetensors"))
    fixer = load(folder)
    assert {p.dtype for p in fixer.network.parameters()} == {torch.float32}
    agrees(official, fixer, atol=0.02)


def test_the_prompt_is_computed_once_and_then_the_encoder_is_not_needed(tmp_path: Path, monkeypatch):
    official = Official()
    folder = official.write(tmp_path / "w", text_encoder=True)
    assert not (folder / "prompt_embedding.safetensors").exists()
    fixer = load(folder)
    agrees(official, fixer)
    cached = load_file(folder / "prompt_embedding.safetensors")["prompt"]
    torch.testing.assert_close(cached, official.prompt.float(), atol=1e-5, rtol=1e-5)
    assert sum(p.numel() for p in fixer.network.parameters()) == sum(
        p.numel() for m in (fixer.network.unet, fixer.network.vae, fixer.network.skips) for p in m.parameters()
    )
    shutil.rmtree(folder / "text_encoder")
    shutil.rmtree(folder / "tokenizer")
    monkeypatch.setitem(sys.modules, "transformers", None)  # importing it now fails
    agrees(official, load(folder))


def test_a_folder_that_cannot_be_written_to(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    official = Official()
    folder = official.write(tmp_path / "w", text_encoder=True)

    def refuse(*args: object, **kwargs: object) -> None:
        raise PermissionError("read-only")

    monkeypatch.setattr("difix3d_ns.priors.published.prompt.write_tensors", refuse)
    agrees(official, load(folder))
    assert not (folder / "prompt_embedding.safetensors").exists()


def test_without_text_encoder_and_cache(folder: Path):
    (folder / "prompt_embedding.safetensors").unlink()
    with pytest.raises(FileNotFoundError, match=r"text_encoder/config\.json is missing.*prompt_embedding"):
        load(folder)


@pytest.mark.parametrize("base", ["sd-turbo", "difix"])
@pytest.mark.parametrize("dtype", [None, torch.bfloat16])
def test_convert(official: Official, tmp_path: Path, base: str, dtype: torch.dtype | None):
    start = official.write_base(tmp_path / "base") if base == "sd-turbo" else Official(seed=7).write(tmp_path / "base")
    if base == "difix":  # another training from the same autoencoder: its adapters must not shine through
        state = load_file(start / VAE_FILE)
        for key, value in official.vae.state_dict().items():
            if ".lora_" not in key and "skip_conv" not in key:
                state[key] = value.float().contiguous()
        save_file(state, start / VAE_FILE)
        save_file({"prompt": official.prompt.float()}, start / "prompt_embedding.safetensors")
    checkpoint = official.write_checkpoint(tmp_path / "model_10001.pkl")
    output = convert(checkpoint, str(start), tmp_path / "out", dtype)
    agrees(official, load(output), atol=1e-4 if dtype is None else 0.05)
    files = {path.relative_to(output).as_posix() for path in output.rglob("*") if path.is_file()}
    assert {Path(name).suffix for name in files} == {".json", ".safetensors"}
    assert not [key for key in load_file(output / VAE_FILE) if "lora" in key or "base_layer" in key]
    assert {value.dtype for value in load_file(output / UNET_FILE).values()} == {dtype or torch.float32}


def test_convert_tells_what_is_wrong(official: Official, original: Path, tmp_path: Path):
    checkpoint = official.write_checkpoint(tmp_path / "model_1.pkl")
    with pytest.raises(UserError, match=r"--base .*nowhere: no such folder"):
        convert(checkpoint, str(tmp_path / "nowhere"), tmp_path / "out")
    with pytest.raises(UserError, match=r"gone\.pkl: no such file"):
        convert(tmp_path / "gone.pkl", str(original), tmp_path / "out")
    with pytest.raises(UserError, match=r"--output .* exists"):
        convert(checkpoint, str(original), original)
    whole = checkpoint.read_bytes()
    checkpoint.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(UserError, match=r"model_1\.pkl can't be read safely"):
        convert(checkpoint, str(original), tmp_path / "out")
    torch.save({"model": {}}, checkpoint)
    with pytest.raises(UserError, match=r"state_dict_unet, state_dict_vae missing \(found model\)"):
        convert(checkpoint, str(original), tmp_path / "out")
    torch.save({"state_dict_unet": {"x": torch.zeros(1)}, "state_dict_vae": {}}, checkpoint)
    with pytest.raises(UserError, match=r"does not fit --base .*1 not known: x"):
        convert(checkpoint, str(original), tmp_path / "out")
    assert not list(tmp_path.glob("out*"))


def test_convert_command(
    official: Official, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    checkpoint, base = official.write_checkpoint(tmp_path / "model_9.pkl"), official.write_base(tmp_path / "base")
    arguments = ["convert", str(checkpoint), "--base", str(base), "--output", str(tmp_path / "out")]
    monkeypatch.setattr(sys, "argv", ["difix3d", *arguments])
    cli.main()
    assert str(tmp_path / "out") in capsys.readouterr().out
    agrees(official, load(tmp_path / "out"))
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert ended.value.code == 1
    assert "exists" in capsys.readouterr().err


class Hub(http.server.ThreadingHTTPServer):
    """What ``snapshot_download`` asks of the hub, from a folder."""

    def __init__(self, folder: Path):
        super().__init__(("127.0.0.1", 0), Handler)
        self.folder = folder
        self.served: list[str] = []
        self.ranges: list[str] = []
        self.cut: str | None = None  # this file's first transfer breaks off

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


class Handler(http.server.BaseHTTPRequestHandler):
    server: Hub
    revision = "0123456789abcdef0123456789abcdef01234567"

    def log_message(self, *args: object) -> None:
        pass

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        root = self.server.folder
        files = sorted(path.relative_to(root).as_posix() for path in root.rglob("*") if path.is_file())
        if "/tree/" in self.path:
            tree = [
                {"type": "file", "path": name, "size": (root / name).stat().st_size, "oid": name.encode().hex()}
                for name in files
            ]
            return self._send(json.dumps(tree).encode(), {"Content-Type": "application/json"})
        if self.path.startswith("/api/models/"):
            siblings = [{"rfilename": name} for name in files]
            content = json.dumps({"id": "nobody/difix_ref", "sha": self.revision, "siblings": siblings}).encode()
            return self._send(content, {"Content-Type": "application/json"})
        name = self.path.partition(f"/resolve/{self.revision}/")[2]
        if name not in files:
            return self.send_error(404)
        headers = {"ETag": f'"{name}"', "X-Repo-Commit": self.revision, "Accept-Ranges": "bytes"}
        content = (root / name).read_bytes()
        if self.command == "GET":
            self.server.served.append(name)
            if "Range" in self.headers:
                self.server.ranges.append(name)
                start = int(self.headers["Range"].removeprefix("bytes=").partition("-")[0])
                headers["Content-Range"] = f"bytes {start}-{len(content) - 1}/{len(content)}"
                content = content[start:]
        return self._send(content, headers, broken=name == self.server.cut and self.command == "GET")

    def _send(self, content: bytes, headers: dict[str, str], broken: bool = False) -> None:
        self.send_response(206 if "Content-Range" in headers else 200)
        for key, value in {**headers, "Content-Length": str(len(content))}.items():
            self.send_header(key, value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(content[: len(content) // 2] if broken else content)
        if broken:
            self.server.cut = None
            self.wfile.flush()
            self.connection.close()


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    with Hub(tmp_path / "repository") as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        fetch = functools.partial(
            huggingface_hub.snapshot_download, endpoint=server.url, cache_dir=tmp_path / "cache", max_workers=1
        )
        monkeypatch.setattr(huggingface_hub, "snapshot_download", fetch)
        monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_DISABLE_XET", True)
        yield server
        server.shutdown()


def test_hub_fetches_nothing_that_could_run(server: Hub, tmp_path: Path):
    official = Official()
    official.write(server.folder, text_encoder=True)
    booby_trap(server.folder, tmp_path / "mark")
    (server.folder / "README.md").write_text("x")
    (server.folder / "sd_turbo.safetensors").write_bytes(b"five gigabytes")
    agrees(official, load_difix("nobody/difix_ref", dtype=torch.float32))
    assert {Path(name).suffix for name in server.served} == {".json", ".safetensors", ".txt"}
    assert {name for name in server.served if name.endswith(".txt")} == {"tokenizer/merges.txt"}
    assert "sd_turbo.safetensors" not in server.served
    assert not list((tmp_path / "cache").rglob("*.py")) and not (tmp_path / "mark").exists()
    server.served.clear()
    agrees(official, load_difix("nobody/difix_ref", dtype=torch.float32))
    assert server.served == []


@pytest.mark.slow
def test_hub_downloads_go_on_where_they_broke_off(server: Hub, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(huggingface_hub.constants, "DOWNLOAD_CHUNK_SIZE", 1024)  # else a tiny file is one chunk
    official = Official()
    official.write(server.folder)
    server.cut = UNET_FILE
    with contextlib.suppress(FileNotFoundError):  # unless the client tries again by itself
        load_difix("nobody/difix_ref", dtype=torch.float32)
    assert server.cut is None
    agrees(official, load_difix("nobody/difix_ref", dtype=torch.float32))
    assert UNET_FILE in server.ranges


def test_offline(server: Hub, monkeypatch: pytest.MonkeyPatch):
    official = Official()
    official.write(server.folder)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)  # what the variable sets at the start
    with pytest.raises(FileNotFoundError, match=r"nobody/difix_ref cannot be downloaded.*HF_HUB_OFFLINE"):
        load_difix("nobody/difix_ref")
    assert server.served == []
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    load_difix("nobody/difix_ref")
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    server.served.clear()
    agrees(official, load_difix("nobody/difix_ref", dtype=torch.float32))
    assert server.served == []


def test_hub_ids_are_told_from_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    assert hub.is_hub_id("nvidia/difix_ref")
    for name in ("difix_ref", "./nvidia/difix_ref", "/nvidia/difix_ref", "~/difix_ref", "a/b/c", "../difix_ref"):
        assert not hub.is_hub_id(name)
    (tmp_path / "nvidia" / "difix_ref").mkdir(parents=True)
    assert not hub.is_hub_id("nvidia/difix_ref")
