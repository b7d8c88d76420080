"""``difix3d mesh FILE.ply --data SCENE``: a splat of another program, in the original implementation's layout."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
import trimesh
from plyfile import PlyData, PlyElement
from scipy.spatial import cKDTree

from difix3d_ns import cli
from difix3d_ns.apps.mesh_splat import mesh
from difix3d_ns.data.procedural.dataset import photograph_world, write_views
from difix3d_ns.data.procedural.demo_scene import demo_world
from difix3d_ns.errors import UserError
from difix3d_ns.geometry.warp import unproject
from difix3d_ns.meshing.splat_mesh import MeshOptions

pytestmark = pytest.mark.usefixtures("one_thread")

_SH0 = 0.28209479177387814
_VOXELS = 48
_OPTIONS = MeshOptions(between=0, voxels=_VOXELS, seen_by=1)


@dataclass(frozen=True)
class Exported:
    """A scene and a splat of it, which another program left in the scene's own coordinates."""

    scene: Path
    splat: Path
    surface: np.ndarray  # [N, 3] metres, what the photos see


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Exported:
    folder = tmp_path_factory.mktemp("exported")
    rng = np.random.default_rng(0)
    views = photograph_world(demo_world(), rng, width=72, height=48, train_views=5, test_views=1, label=None)
    scene = write_views(views, folder / "scene", rng)
    places, colours, sizes = [], [], []
    for view in views:
        known = view.depth[..., 0] > 0
        places.append(unproject(view.depth, view.camera)[known])
        colours.append(view.image[known])
        sizes.append(view.depth[..., 0][known] / float(view.camera.intrinsics[0, 0]))
    surface = torch.cat(places).numpy()
    write_inria(folder / "point_cloud.ply", surface, torch.cat(colours).numpy(), 0.7 * torch.cat(sizes).numpy())
    return Exported(scene, folder / "point_cloud.ply", surface)


def write_inria(file: Path, means: np.ndarray, colours: np.ndarray, sizes: np.ndarray) -> None:
    """Write opaque round Gaussians with the columns, in the order, of the original implementation's save_ply."""
    rest = [f"f_rest_{number}" for number in range(45)]
    names = ["x", "y", "z", "nx", "ny", "nz", *(f"f_dc_{number}" for number in range(3)), *rest, "opacity"]
    names += [*(f"scale_{number}" for number in range(3)), *(f"rot_{number}" for number in range(4))]
    rows = np.zeros(len(means), [(name, "f4") for name in names])
    for number, axis in enumerate("xyz"):
        rows[axis], rows[f"scale_{number}"] = means[:, number], np.log(sizes)
        rows[f"f_dc_{number}"] = (colours[:, number] - 0.5) / _SH0
    rows["opacity"], rows["rot_0"] = 4.0, 1.0
    PlyData([PlyElement.describe(rows, "vertex")]).write(str(file))


def test_a_ply_of_another_program_becomes_a_mesh(exported: Exported, tmp_path: Path) -> None:
    done = mesh(exported.splat, tmp_path / "room.ply", exported.scene, _OPTIONS, frame="capture")
    assert "faces in" in done.describe() and done.files == (tmp_path / "room.ply",)
    found = trimesh.load(tmp_path / "room.ply", process=False)
    assert len(found.faces) == done.faces > 1000
    apart, nearest = cKDTree(exported.surface).query(found.vertices)
    voxel = max(done.sides) / _VOXELS
    assert np.quantile(apart, 0.9) < 2 * voxel, (np.quantile(apart, 0.9), voxel)
    covered = cKDTree(found.vertices).query(exported.surface)[0] < 2 * voxel
    assert covered.mean() > 0.6, covered.mean()  # what three of the five photos see
    assert len(np.unique(nearest)) > 500 and np.asarray(found.visual.vertex_colors)[:, :3].std() > 20


def test_the_command_says_what_is_wrong(
    exported: Exported, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    half = tmp_path / "half.ply"
    half.write_bytes(exported.splat.read_bytes()[:5000])
    points = tmp_path / "points.ply"
    points.write_bytes((exported.scene / "sparse_pc.ply").read_bytes())
    for splat, data, expected in (
        (exported.splat, None, "give --data, the scene whose photos it shows"),
        (tmp_path / "none.ply", exported.scene, "none.ply: there is no such"),
        (exported.splat, tmp_path / "nowhere", "nowhere does not exist"),
        (half, exported.scene, "half.ply is no splat"),
        (points, exported.scene, "points.ply is no splat"),
    ):
        words = ["difix3d", "mesh", str(splat), "--output", str(tmp_path / "a.glb")]
        monkeypatch.setattr("sys.argv", words + ([] if data is None else ["--data", str(data)]))
        with pytest.raises((SystemExit, UserError)) as ended:
            cli.main()
        said = " ".join(capsys.readouterr()) + str(ended.value)
        assert expected in " ".join(said.split()) and "Traceback" not in said, said
    assert not (tmp_path / "a.glb").exists()
