"""A project's own ``./configs`` extends and overrides the packaged configs."""

from pathlib import Path

from hydra.core.config_search_path import ConfigSearchPath, SearchPathQuery
from hydra.plugins.search_path_plugin import SearchPathPlugin

from accelerator.cli.paths import packaged_configs


class ProjectConfigs(SearchPathPlugin):
    """Puts ``<working directory>/configs`` before the packaged configs, in runs of this package only."""

    def manipulate_search_path(self, search_path: ConfigSearchPath) -> None:
        """Add the folder, if it is there and another one than the packaged."""
        packaged, project = packaged_configs(), Path.cwd() / "configs"
        ours = any(
            entry.provider == "main" and entry.path.removeprefix("file://") == str(packaged)
            for entry in search_path.get_path()
        )
        if ours and project.is_dir() and project.resolve() != packaged:
            search_path.prepend("project", f"file://{project}", SearchPathQuery(provider="main"))
