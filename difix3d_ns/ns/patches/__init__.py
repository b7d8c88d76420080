"""All force applied to nerfstudio, torch and Python: names of theirs that are replaced, and why.

A module of this folder holds one patch. ``apply`` does at once what can be done before anything is made, when anything
of ``ns`` is imported; the others are functions that are called with what has been made, or around its making.
``PATCHES`` is the list of all of them, with the test that fails without each.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Patch:
    """A name that is replaced."""

    module: str  # of this folder
    what: str  # the name, with its module
    why: str
    test: str  # file::function of what fails without it
    by: str = "apply"  # the function of the module that replaces it
    version: str = "nerfstudio 1.1.5"  # in which it is needed; check again with the next one


PATCHES = (
    Patch(
        "splatfacto_cpu",
        "nerfstudio.models.splatfacto.rasterization",
        "gsplat rasterizes with CUDA alone; and its near plane is fixed at 0.01",
        "tests/unit/test_ns_model.py::test_a_step_reaches_every_parameter",
    ),
    Patch(
        "splatfacto_cpu",
        "nerfstudio.models.splatfacto.get_viewmat",
        "it is compiled when it is called, which wants a C++ compiler, and with CUDA half a minute",
        "tests/unit/test_patches.py::test_camera_matrices_are_nerfstudios",
    ),
    Patch(
        "splatfacto_cpu",
        "nerfstudio.cameras.cameras.Cameras.get_intrinsics_matrices",
        "splatfacto calls .cuda() on the matrices of the camera it renders",
        "tests/unit/test_ns_model.py::test_cameras_keep_their_intrinsics_on_the_cpu",
        by="keep_on_cpu",
    ),
    Patch(
        "splatfacto_metrics",
        "torchmetrics.image.lpip.LearnedPerceptualImagePatchSimilarity",
        "splatfacto makes one with each model, which downloads weights and ends without a network",
        "tests/unit/test_patches.py::test_models_are_made_with_a_lazy_lpips_and_others_are_not",
        by="light_metrics",
    ),
    Patch(
        "splatfacto_metrics",
        "torchmetrics.image.PeakSignalNoiseRatio",
        "importing torchmetrics, with its text models and audio, costs a training 1 s and 30 MB",
        "tests/unit/test_patches.py::test_psnr_is_torchmetrics",
        by="light_metrics",
    ),
    Patch(
        "viewer_tabs",
        "nerfstudio.viewer.render_state_machine.RenderStateMachine._render_img",
        "an enhanced picture comes later than its render, and each tab waits for its own",
        "tests/unit/test_viewer_live.py::test_render_threads_ask_the_panel",
    ),
    Patch(
        "closed_tabs",
        "nerfstudio.viewer.viewer.Viewer.render_statemachines",
        "a tab that closes while its camera moves is a KeyError, with a traceback or the end of training",
        "tests/unit/test_viewer_scene.py::test_a_tab_that_is_gone_is_moved_without_harm",
        by="survive_closed_tabs",
    ),
    Patch(
        "render_panel",
        "nerfstudio.viewer.render_panel.CameraPath",
        "the Render tab keeps its path to its own callbacks, and the loop can make it its targets",
        "tests/unit/test_viewer_scene.py::test_a_camera_path",
    ),
    Patch(
        "viewer_ports",
        "nerfstudio.viewer_legacy.server.viewer_utils.get_free_port",
        "where the viewer's port is in use, it opens at any other, and nothing says so",
        "tests/unit/test_patches.py::test_a_port_in_use_is_said_and_the_next_one_taken",
    ),
    Patch(
        "viewer_ports",
        "nerfstudio.viewer.viewer.Viewer.viewer_info",
        "where the port that is given is in use, viser takes the next one, and the address of the other is printed",
        "tests/unit/test_nerfstudio_flags.py::test_a_given_port_in_use_is_said_with_the_address_of_the_next_one",
        by="correct_address",
    ),
    Patch(
        "icons",
        "viser._gui_api.svg_from_icon",
        "viser goes through its archive for each icon: 2 s before the first step",
        "tests/unit/test_patches.py::test_icons_are_visers",
        version="viser 0.2.7",
    ),
    Patch(
        "icons",
        "viser._gui_handles.svg_from_icon",
        "the same for the icons of tabs",
        "tests/unit/test_patches.py::test_icons_are_visers",
        version="viser 0.2.7",
    ),
    Patch(
        "foreign_methods",
        "nerfstudio.configs.external_methods.ExternalMethodDummyTrainerConfig.__post_init__",
        "each method that is not installed reads the whole stack: 5 s at the start of every command",
        "tests/unit/test_patches.py::test_methods_that_are_not_installed_are_listed_and_offered",
    ),
    Patch(
        "panel_elements",
        "nerfstudio.viewer.viewer_elements.ViewerElement.cb_hook",
        "the switches of the enhancer stay true when nerfstudio's own output type or split view is used",
        "tests/unit/test_viewer_scene.py::test_nerfstudios_output_and_the_switch_agree",
        by="follow_panel",
    ),
    Patch(
        "event_writers",
        "nerfstudio.utils.writer.EVENT_WRITERS",
        "TensorBoard raises in the training loop when the disk is full",
        "tests/integration/test_disk.py::test_files_that_grow_too_large",
        by="survive_a_full_disk",
    ),
    Patch(
        "event_writers",
        "threading.excepthook",
        "TensorBoard's own thread prints a traceback as well",
        "tests/integration/test_disk.py::test_files_that_grow_too_large",
        by="survive_a_full_disk",
        version="tensorboard 2",
    ),
    Patch(
        "held_out_loader",
        "nerfstudio.data.utils.dataloaders.FixedIndicesEvalDataloader.__init__",
        "ns-render dataset ends in a traceback where no photo is held out",
        "tests/unit/test_no_held_out.py::test_each_command_says_how_to_hold_some_out",
    ),
    Patch(
        "held_out_loader",
        "nerfstudio.data.utils.dataloaders.FixedIndicesEvalDataloader.get_camera",
        "photos with alpha are written in false colours, beside renders before a background",
        "tests/unit/test_captures.py::test_rendered_photos_with_alpha_stand_before_the_renders_background",
    ),
    Patch(
        "exports",
        "nerfstudio.scripts.exporter.ExportGaussianSplat.write_ply",
        "a splat is exported in the frame of training, without the way back to the capture's own",
        "tests/unit/test_splat_frame.py::test_an_exported_splat_has_its_frame_beside_it",
        by="write_frame_beside",
    ),
    Patch(
        "exports",
        "nerfstudio.exporter.exporter_utils.collect_camera_poses_for_dataset",
        "poses are exported in the frame of training, without the way back to the capture's own",
        "tests/unit/test_splat_frame.py::test_exported_cameras_have_original_poses",
        by="write_frame_beside",
    ),
    Patch(
        "ffmpeg",
        "nerfstudio.utils.install_checks.check_ffmpeg_installed",
        "it names a page to read, where a line to type serves",
        "tests/integration/test_render.py::test_without_ffmpeg_the_message_says_how_to_get_it",
    ),
    Patch(
        "camera_paths",
        "nerfstudio.cameras.camera_paths.get_path_from_json",
        "a camera type it does not know becomes perspective, and stereo is rendered as if it were, without a word",
        "tests/unit/test_panoramas.py::test_other_camera_types_are_refused",
    ),
    Patch(
        "camera_paths",
        "nerfstudio.cameras.camera_paths.get_interpolated_poses_many",
        "between no poses, or from one to itself, it ends in a traceback: where fewer than two photos are held out",
        "tests/unit/test_no_held_out.py::test_interpolate_names_the_other_source",
    ),
    Patch(
        "torch_load",
        "torch.serialization.get_safe_globals",
        "nerfstudio's checkpoints hold numpy scalars, which weights_only=True refuses (nerfstudio #3683)",
        "tests/unit/test_ns_checkpoints.py::test_numpy_scalars_load",
        version="torch 2.6",
    ),
    Patch(
        "eval_setup",
        "nerfstudio.utils.eval_utils.eval_setup",
        "a training that was moved is not found, one without a checkpoint is a traceback",
        "tests/unit/test_places.py::test_nerfstudios_commands_find_a_training_that_was_moved",
        by="find_trainings_again",
    ),
    Patch(
        "streams",
        "sys.stdout.errors",
        "a bar on a console that cannot show it ends a training",
        "tests/unit/test_consoles.py::test_a_training_on_a_console_that_lacks_characters",
        version="Python 3",
    ),
    Patch(
        "excepthook",
        "sys.excepthook",
        "nerfstudio's commands show a traceback for what the user can fix",
        "tests/unit/test_ns_overrides.py::test_user_errors_end_any_command_with_their_message_alone",
        version="Python 3",
    ),
)
"""Of names that are functions with a list behind them, the list is added to; the others are replaced."""


def apply() -> None:
    """Replace what can be replaced before anything is made; again it does nothing."""
    from difix3d_ns.ns.patches import (
        camera_paths,
        excepthook,
        ffmpeg,
        foreign_methods,
        held_out_loader,
        icons,
        render_panel,
        splatfacto_cpu,
        streams,
        torch_load,
        viewer_ports,
        viewer_tabs,
    )

    for module in (
        streams,
        splatfacto_cpu,
        viewer_tabs,
        viewer_ports,
        render_panel,
        icons,
        camera_paths,
        held_out_loader,
        ffmpeg,
        torch_load,
        foreign_methods,
        excepthook,
    ):
        module.apply()
