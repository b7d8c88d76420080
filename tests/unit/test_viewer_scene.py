"""What a viser server really sends: cameras, frusta, gallery."""

from __future__ import annotations

import base64
import io
import json
import math
import shlex
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import trimesh
import viser
from nerfstudio.cameras.camera_paths import get_path_from_json
from nerfstudio.cameras.cameras import CameraType
from nerfstudio.viewer.utils import CameraState, get_camera
from nerfstudio.viewer.viewer import Viewer
from PIL import Image
from viser import _messages as messages

from difix3d_ns.enhance.enhancer import EnhancerSettings
from difix3d_ns.errors import UserError
from difix3d_ns.geometry.pinhole import Pinhole
from difix3d_ns.geometry.poses import assemble
from difix3d_ns.guidance.status import ShownView, Status
from difix3d_ns.meshing.mesh_files import frame_file, write_mesh
from difix3d_ns.ns.cameras import to_pinhole
from difix3d_ns.ns.patches.closed_tabs import survive_closed_tabs
from difix3d_ns.ns.splat_frame import SplatFrame
from difix3d_ns.ns.viewer.camera_path import path_cameras
from difix3d_ns.ns.viewer.enhancer_controls import EnhancerControls
from difix3d_ns.ns.viewer.frusta import Frusta
from difix3d_ns.ns.viewer.gallery import Gallery, describe
from difix3d_ns.ns.viewer.live import LiveEnhancer
from difix3d_ns.ns.viewer.markdown import plain
from difix3d_ns.ns.viewer.panel import Panel
from difix3d_ns.ns.viewer.shown_mesh import ShownMesh
from difix3d_ns.ns.viewer.still_view import write_still_view
from difix3d_ns.ns.viewer.viewer_cameras import client_pinhole, pinhole_of, placed
from difix3d_ns.priors.fixer_config import FixerConfig
from difix3d_ns.views.folders import POOL_FOLDER
from difix3d_ns.views.pool import Pool
from difix3d_ns.views.records import LATEST, ViewRecord, panels_of, thumbnail
from difix3d_ns.views.view import TrainView

PORT = 7451


@pytest.fixture
def server() -> Iterator[viser.ViserServer]:
    server = viser.ViserServer(port=PORT, verbose=False)
    yield server
    server.stop()


def _sent(server: viser.ViserServer, kind: type) -> list[Any]:
    """Messages that a tab gets when it is opened now."""
    buffer = server._websock_server._broadcast_buffer
    return [message for message in buffer.message_from_id.values() if isinstance(message, kind)]


def _pinhole(x: float = 0.0) -> Pinhole:
    turn = torch.linalg.matrix_exp(torch.tensor([[0.0, -0.2, 0.3], [0.2, 0.0, 0.1], [-0.3, -0.1, 0.0]]))
    pose = assemble(turn[None], torch.tensor([[x, 0.5, -0.25]]))[0]
    return Pinhole(pose, torch.tensor([[50.0, 0, 30], [0, 50, 20], [0, 0, 1]]), 60, 40)


def test_there_and_back() -> None:
    camera = _pinhole()
    back = pinhole_of(**placed(camera), long_side=60)
    assert (back.width, back.height) == (60, 40)
    assert torch.allclose(back.camera_to_world, camera.camera_to_world, atol=1e-5)
    assert torch.allclose(back.intrinsics, camera.intrinsics, atol=1e-3)


def test_portraits_keep_their_long_side() -> None:
    camera = pinhole_of(np.array([1.0, 0, 0, 0]), np.zeros(3), 1.0, 0.5, 480)
    assert (camera.width, camera.height) == (240, 480)
    assert camera.intrinsics[1, 1] == pytest.approx(240 / math.tan(0.5))


def test_the_same_camera_as_nerfstudios_own_viewer() -> None:
    where = placed(_pinhole())
    client = SimpleNamespace(camera=SimpleNamespace(**where))
    asked = Viewer.get_camera_state(SimpleNamespace(ready=False, current_camera_idx=0), client)
    state = CameraState(where["fov"], where["aspect"], asked.c2w, camera_type=CameraType.PERSPECTIVE)
    theirs, ours = to_pinhole(get_camera(state, 40, 60)), pinhole_of(**where, long_side=60)
    assert torch.allclose(theirs.camera_to_world, ours.camera_to_world, atol=1e-5)
    assert torch.allclose(theirs.intrinsics, ours.intrinsics, atol=1e-3)


def _view(
    round: int = 1, target: int = 0, version: int = 0, references: tuple[Pinhole, ...] = ()
) -> tuple[ShownView, tuple[Pinhole, ...]]:
    image = thumbnail(torch.full((240, 360, 3), 0.8))
    assert image.shape == (60, 90, 3)
    camera, group = _pinhole(target), f"Round {round}"
    return ShownView(f"target/{target:03d}@{round}", version, camera, lambda: image, (), group), references


def test_frusta_come_change_and_go(server: viser.ViserServer) -> None:
    frusta = Frusta(server, 0.1)
    frusta.show([_view(1, 0), _view(2, 1, references=(_pinhole(5), _pinhole(6)))])
    assert frusta.versions() == {"target/000@1": 0, "target/001@2": 0}
    sent = _sent(server, messages.CameraFrustumMessage)
    assert [m.name for m in sent] == ["/difix3d/views/group_0/target_000_1", "/difix3d/views/group_1/target_001_2"]
    assert all(m.image_binary for m in sent)
    lines = _sent(server, messages.CubicBezierSplineMessage)
    assert [m.name for m in lines] == ["/difix3d/references/group_1/target_001_2"]
    here = placed(_pinhole(1))["position"]
    assert np.allclose(
        lines[0].positions, [here, placed(_pinhole(5))["position"], here, placed(_pinhole(6))["position"], here]
    )
    frusta.show([_view(2, 1, version=1)])  # repaired again, without references
    assert "/difix3d/references/group_1/target_001_2" in {
        m.name for m in _sent(server, messages.RemoveSceneNodeMessage)
    }
    frusta.show([_view(1, 0, version=3)], gone=["target/001@2"])
    assert frusta.versions() == {"target/000@1": 3}
    removed = {m.name for m in _sent(server, messages.RemoveSceneNodeMessage)}
    assert removed >= {"/difix3d/views/group_1/target_001_2"}


class _TabCamera:
    """Camera of a browser tab, as far as is used."""

    def __init__(self) -> None:
        self.position, self.wxyz = np.zeros(3), np.array([1.0, 0.0, 0.0, 0.0])
        self.moved: list[Any] = []

    def on_update(self, callback: Any) -> Any:
        self.moved.append(callback)
        return callback


def test_a_frustum_is_hidden_while_somebody_stands_in_it(server: viser.ViserServer) -> None:
    frusta = Frusta(server, 0.1)
    frusta.show([_view(1, 0), _view(1, 1)])
    first, second = "target/000@1", "target/001@1"
    tab: Any = SimpleNamespace(client_id=7, camera=_TabCamera(), atomic=nullcontext)

    def hidden() -> set[str]:
        return {key for key in (first, second) if not frusta._frustum(key).visible}  # type: ignore[union-attr]

    def move(by: float) -> None:
        tab.camera.position = np.asarray(tab.camera.position) + by
        tab.camera.moved[0](tab.camera)

    frusta._stand_in(tab, first)
    assert np.allclose(tab.camera.position, placed(_pinhole(0))["position"])
    there = tab.camera.position
    move(3.0)
    assert hidden() == {first}  # it was sent before the tab arrived
    tab.camera.position = there
    move(0.02)
    assert hidden() == {first}  # still inside
    frusta.show([_view(1, 0, version=1)])  # made again around the visitor
    assert hidden() == {first}
    frusta._stand_in(tab, second)
    assert hidden() == {second} and len(tab.camera.moved) == 1
    move(0.0)
    move(0.2)
    assert hidden() == set()
    frusta._stand_in(tab, first)
    frusta.leave(7)  # closed while inside
    assert hidden() == set()


def test_a_view_moves_to_the_group_it_is_made_again_in(server: viser.ViserServer) -> None:
    frusta = Frusta(server, 0.1, "upscaled photos")
    labels = {m.label for m in _sent(server, messages.GuiAddCheckboxMessage)}
    assert frusta._links_on.visible and "Show upscaled photos" in labels
    for number in (1, 2):
        view = ShownView("photo/0000", number, _pinhole(), lambda: np.zeros((4, 4, 3), np.uint8), (), f"Round {number}")
        frusta.show([(view, ())])
    assert frusta.versions() == {"photo/0000": 2}
    removed = {m.name for m in _sent(server, messages.RemoveSceneNodeMessage)}
    assert removed == {"/difix3d/views/group_0/photo_0000"}
    frusta.show_targets([])
    assert not frusta._links_on.visible and not frusta._targets_on.visible  # there are none


def test_groups_can_be_chosen_where_there_are_any(server: viser.ViserServer) -> None:
    frusta = Frusta(server, 0.1)
    frusta.show([(ShownView("orbit/01", 0, _pinhole(), lambda: np.zeros((4, 4, 3), np.uint8)), ())])
    assert not frusta._group.visible
    frusta.show([_view(10, 0), _view(9, 0)])
    assert frusta._group.visible and frusta._group.options == ("all", "Round 9", "Round 10")
    frusta._group.value = "Round 9"
    frusta._switch()
    assert [frames[0].visible for frames in frusta._groups.values()] == [False, False, True]


def test_targets_are_replaced(server: viser.ViserServer) -> None:
    frusta = Frusta(server, 0.1)
    frusta.show_targets([_pinhole(0), _pinhole(1)])
    frusta.show_targets([_pinhole(2)])
    assert {m.name for m in _sent(server, messages.RemoveSceneNodeMessage)} >= {"/difix3d/targets/001"}


def _seen_nodes(server: viser.ViserServer) -> dict[str, bool]:
    """Whether nodes of the scene are shown, of those that were ever switched."""
    return {m.name: m.visible for m in _sent(server, messages.SetSceneNodeVisibilityMessage)}


def test_the_mesh_of_a_training_is_read_when_it_is_asked_for(server: viser.ViserServer, tmp_path: Path) -> None:
    box = trimesh.creation.box((0.2, 0.4, 0.6))
    box.apply_translation((0.1, 0.0, 0.3))
    shades = np.full((8, 3), 90, np.uint8)
    frame = SplatFrame(np.hstack([np.eye(3), np.array([[1.0], [2.0], [3.0]])]), 0.5)
    panel = Panel.__new__(Panel)
    panel._scene = SimpleNamespace(unoptimized_cameras=lambda: [_pinhole()])  # type: ignore[assignment]
    panel._folder, panel._mesh = server.gui.add_folder("ours"), None
    outputs = SimpleNamespace(dataparser_transform=torch.from_numpy(frame.transform), dataparser_scale=frame.scale)
    viewer: Any = SimpleNamespace(
        log_filename=tmp_path / "viewer_log_filename.txt",
        viser_server=server,
        pipeline=SimpleNamespace(datamanager=SimpleNamespace(train_dataparser_outputs=outputs)),
    )
    panel._offer_mesh(viewer)
    assert panel._mesh is None and not _sent(server, messages.GuiAddCheckboxMessage)  # there is no mesh
    write_mesh(tmp_path / "mesh.glb", box, shades, np.ones(8, np.int32))
    frame.write(frame_file(tmp_path / "mesh.glb"))
    panel._offer_mesh(viewer)
    (switch,) = _sent(server, messages.GuiAddCheckboxMessage)
    assert switch.label == "Show mesh" and not switch.value
    shown = panel._mesh
    assert shown is not None and not _sent(server, messages.GlbMessage)
    for on in (True, False, True):
        shown._on.value = on
        shown._switch()
        (message,) = _sent(server, messages.GlbMessage)
        assert _seen_nodes(server).get("/difix3d/mesh", True) is on
    assert message.scale == 10 and message.name == "/difix3d/mesh"
    sent = trimesh.load(io.BytesIO(message.glb_data), file_type="glb", force="mesh")
    assert np.allclose(sent.bounds, box.bounds, atol=1e-6)  # z up, as the splat is
    assert b'"KHR_materials_unlit"' in message.glb_data and b'"COLOR_0"' in message.glb_data
    assert not shown._problem.visible


def test_a_mesh_that_cannot_be_read_is_told(server: viser.ViserServer) -> None:
    def broken() -> trimesh.Trimesh:
        raise UserError("mesh.glb has no <faces>")

    shown = ShownMesh(server, "mesh.glb", broken)
    shown._on.value = True
    shown._switch()
    assert shown._problem.visible and "no &#60;faces&#62;" in shown._problem.content
    assert not _sent(server, messages.GlbMessage)
    shown._on.value = False
    shown._switch()
    assert not shown._problem.visible


def _record(target: int, panels: int = 4) -> ViewRecord:
    return ViewRecord(
        key=f"target/{target}",
        group="Round 1",
        order=1,
        title=f"View {target}",
        step=target,
        seconds=0.1,
        numbers={"change": 0.0512, "prior": "odd *one*"},
        references=("odd (name).png",),
        panels=panels_of({f"Panel {number}": torch.rand(60, 90, 3) for number in range(panels)}),
    )


def test_the_gallery_shows_the_latest(server: viser.ViserServer) -> None:
    gallery = Gallery(server)
    gallery.add(*(_record(i) for i in range(LATEST + 3)))
    shown = [item.content for item in gallery._items if item.visible]
    assert [content.split("**")[1] for content in shown] == [f"Round 1: View {LATEST + 2 - i}" for i in range(4)]
    gallery._count.value = 1
    gallery._draw()
    assert sum(item.visible for item in gallery._items) == 1


@pytest.mark.parametrize(("panels", "size"), [(1, (90, 60)), (2, (180, 60)), (3, (180, 120)), (4, (180, 120))])
def test_any_number_of_panels_is_shown(panels: int, size: tuple[int, int]) -> None:
    text = describe(_record(0, panels))
    assert text.startswith("**Round 1: View 0** at step 0: change 5.1 %, prior odd &#42;one&#42;, 0.10 s, from odd")
    picture = Image.open(io.BytesIO(base64.b64decode(text.rpartition("base64,")[2].rstrip(")"))))
    assert picture.size == size


def test_of_a_finished_training_only_made_views_are_shown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pool, image = Pool(None, tmp_path / POOL_FOLDER), torch.zeros(12, 16, 3)
    camera = _pinhole().resized(16, 12)
    for key in ("rendered/000", "orbit/000"):
        pool.put(TrainView(key, camera, image))
    for key in ("state", "state/000"):
        pool.put_state(key, {"noise": torch.zeros(4)})
    pool.state(checkpoint=1)
    statuses: list[Status] = []
    panel: Any = Panel(None, None, SimpleNamespace(enhance=None), "off")  # type: ignore[arg-type]
    monkeypatch.setattr(panel, "_make_controls", statuses.append)
    panel._show_saved(SimpleNamespace(log_filename=tmp_path / "log.txt"))
    assert [view.key for view in statuses[0].views] == ["orbit/000"]
    assert statuses[0].lines == ["1 views in the pool"]


def test_two_pictures_are_compared_by_a_slider(server: viser.ViserServer) -> None:
    panels = panels_of(
        {"Before": torch.zeros(60, 90, 3), "After": torch.ones(60, 90, 3), "Photo": torch.ones(60, 90, 3)}
    )
    record = replace(_record(0), panels=panels, pairs=(("Before", "After"),))
    gallery = Gallery(server)
    gallery.add(record)
    assert gallery._edge.visible and gallery._legend.content == "Before at the left, After at the right; below Photo."
    for percent in (0, 30, 100):
        gallery._edge.value = percent
        gallery._draw()
        address = gallery._items[0].content.rpartition("base64,")[2].rstrip(")")
        picture = np.asarray(Image.open(io.BytesIO(base64.b64decode(address))), float) / 255
        assert picture.shape == (120, 180, 3)  # the photo below, black beside it
        assert picture[:55, :90].mean() == pytest.approx(1 - percent / 100, abs=0.04)


def test_a_view_becomes_a_camera_path_and_a_command(tmp_path: Path) -> None:
    camera = _pinhole(0.5)
    commands = [write_still_view(camera, tmp_path / "a training", ("rgb", "enhanced")) for _ in range(2)]
    words = shlex.split(commands[1])
    path = tmp_path / "a training" / "still_views" / "view_2.json"
    assert words[:2] == ["ns-render", "camera-path"] and str(path) in words and "enhanced" in words
    found = to_pinhole(get_path_from_json(json.loads(path.read_text()))[:1])
    assert torch.allclose(found.camera_to_world, camera.camera_to_world, atol=1e-5)
    assert (found.width, found.height) == (camera.width, camera.height)
    assert float(found.intrinsics[1, 1]) == pytest.approx(float(camera.intrinsics[1, 1]), rel=1e-4)


def test_a_picture_survives_visers_markdown(server: viser.ViserServer) -> None:
    text = describe(_record(0))
    handle = server.gui.add_markdown(text, image_root=Path())
    sent = [m.updates["markdown"] for m in _sent(server, messages.GuiUpdateMessage) if "markdown" in m.updates]
    assert text in sent and handle.content == text
    assert text.endswith(")") and text.count("(") == text.count(")") == 1  # of the picture's address alone


def test_text_stays_as_it_is() -> None:
    assert plain("frame 1, ok.") == "frame 1, ok."
    assert plain("<b>{x}") == "&#60;b&#62;&#123;x&#125;"
    assert not set("<>{}()[]*_`") & set(plain("TypeError: got <class 'float'> {key: 1} `a` *b* (c) [d]"))


def test_windows_too_narrow_are_told() -> None:
    for aspect in (0.01, 50.0, float("nan")):
        with pytest.raises(UserError, match="narrow"):
            client_pinhole(SimpleNamespace(camera=SimpleNamespace(**placed(_pinhole()) | {"aspect": aspect})), 480)


def test_a_camera_path(server: viser.ViserServer) -> None:
    from nerfstudio.viewer import render_panel

    with pytest.raises(UserError, match="fewer than two cameras"):
        path_cameras(server, 4, 100)
    path = render_panel.CameraPath(server, server.gui.add_number("Duration", 1.0))
    path.default_transition_sec, path.default_fov = 1.0, 0.8
    for x in (0.0, 1.0):
        where = placed(_pinhole(x))
        options = dict.fromkeys(("override_fov_enabled", "override_time_enabled", "override_transition_enabled"), False)
        path.add_camera(
            render_panel.Keyframe(
                **{name: where[name] for name in ("position", "wxyz")},
                **options,
                override_fov_rad=0.8,
                override_time_val=0.0,
                aspect=1.5,
                override_transition_sec=None,
            )
        )
    path.update_spline()
    cameras = path_cameras(server, 3, 90)
    assert [(camera.width, camera.height) for camera in cameras] == [(90, 60)] * 3
    assert torch.allclose(cameras[0].camera_to_world, _pinhole(0.0).camera_to_world, atol=1e-4)
    assert torch.allclose(cameras[1].position, _pinhole(0.5).position, atol=1e-4)
    assert torch.allclose(cameras[2].camera_to_world, _pinhole(1.0).camera_to_world, atol=1e-4)
    assert 2 * math.atan(30 / float(cameras[0].intrinsics[1, 1])) == pytest.approx(0.8, abs=1e-4)


@pytest.mark.parametrize("mode", ["key", "rgb"])
def test_nerfstudios_output_and_the_switch_agree(server: viser.ViserServer, mode: Any) -> None:
    """From the first picture on, whichever of the two is used."""
    server.gui._thread_executor = SimpleNamespace(submit=lambda call: call())  # viser's callbacks at once, in order
    from nerfstudio.viewer.control_panel import ControlPanel

    enhancer = SimpleNamespace(settings=EnhancerSettings(FixerConfig(), 0.5))
    live = LiveEnhancer(lambda camera, image, caller: image)
    chosen: list[str] = []
    panel = ControlPanel(server, False, 10.0, lambda: None, lambda output: chosen.append(output.value), lambda _: None)

    class Watched:
        viser_server, control_panel, render_statemachines = server, panel, {}

    controls = EnhancerControls(Watched(), enhancer, live, mode)  # type: ignore[arg-type]
    raw, enhanced = ("rgb", "enhanced") if mode == "key" else ("raw", "rgb")
    names = ["rgb", "depth", "enhanced"] if mode == "key" else ["depth", "raw", "rgb"]
    outputs = {name: torch.zeros(2, 2, 3) for name in names}
    controls.offer(outputs)
    assert panel.output_render == (enhanced if mode == "rgb" else raw) and controls._on.value is (mode == "rgb")
    panel.update_output_options(names)  # as nerfstudio does then
    for on in (mode != "rgb", mode == "rgb"):
        controls._on.value = on
        assert panel.output_render == (enhanced if on else raw)
        assert chosen[-1:] == [enhanced if on else raw]  # nerfstudio's own callback comes as well
    panel._output_render.value = enhanced
    assert controls._on.value is True
    panel._output_render.value = "depth"
    assert controls._on.value is False
    controls.offer(outputs)  # a tab was opened
    assert panel.output_render == "depth"
    controls._split.value = True
    assert panel.split and panel.split_output_render == enhanced
    panel._split.value = False
    assert controls._split.value is False


def test_a_tab_that_is_gone_is_moved_without_harm(server: viser.ViserServer) -> None:
    """nerfstudio's own callback of a camera that moves comes after that of the tab that closes."""
    viewer = Viewer.__new__(Viewer)
    viewer.ready, viewer.viser_server, viewer.render_statemachines = True, server, {}
    viewer.get_camera_state = lambda client: None  # type: ignore[method-assign]
    survive_closed_tabs(viewer)
    moved: list[Any] = []
    camera = SimpleNamespace(on_update=moved.append)
    viewer.handle_new_client(SimpleNamespace(client_id=3, camera=camera))  # type: ignore[arg-type]
    assert list(viewer.render_statemachines) == [3]
    thread = viewer.render_statemachines[3]
    viewer.handle_disconnect(SimpleNamespace(client_id=3))  # type: ignore[arg-type]
    assert len(viewer.render_statemachines) == 0 and not thread.running
    moved[0](camera)
    assert len(viewer.render_statemachines) == 0
