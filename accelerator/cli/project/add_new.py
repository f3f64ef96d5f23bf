"""``accelerator add KIND NAME --new``: code, YAML and a test that runs, to begin with; and packages of components."""

from __future__ import annotations

from argparse import Namespace
from pathlib import Path

from accelerator.cli.project.add_component import Component, places_of, tell_next
from accelerator.cli.project.catalogue import Catalogue, imports_all
from accelerator.cli.project.component_yaml import component_yaml
from accelerator.cli.project.generated import Generated, check_absent
from accelerator.cli.project.kinds import Kind
from accelerator.cli.project.project import check_inside, check_name, here, to_write_in
from accelerator.cli.project.templates import camel, filled, templates
from accelerator.errors import ConfigError
from accelerator.utilities.files import short, write_together
from accelerator.utilities.signatures import signature_of

PACKAGE = "components"  # where a project has no package of its own yet

_FUNCTIONS = ("loss", "metric", "data")  # kinds that begin as a function


def add_new(options: Namespace) -> None:
    """Begin a component in the project's package."""
    kind: Kind = options.kind
    name = check_name(options.name, f"a {kind.name}")
    if f"{kind.name}.py" not in templates("new"):
        able = ", ".join(sorted(t.removesuffix(".py") for t in templates("new") if not t.endswith("_test.py")))
        raise ConfigError(f"--new begins one of: {able.replace('package, ', '')}; a {kind.name} is written by hand")
    project = to_write_in()
    catalogue = Catalogue(project)
    if (taken := catalogue.names(kind).get(name)) is not None:
        raise ConfigError(f"there is a {kind.name} '{name}' already: {taken}; choose another name")
    package = project.package or PACKAGE
    files = _code(project.root, package, kind, name)
    check_absent({path: text for path, text in files.items() if path.name != "__init__.py"})
    files = {check_inside(path, project.root): text for path, text in files.items() if not path.exists()}
    imports = project.with_import(package)

    module, attribute = f"{package}.{kind.name}.{name}", name if kind.name in _FUNCTIONS else camel(name)
    code = project.root / package / kind.name / f"{name}.py"
    catalogue.source.take(module, code, files[code])
    registered = project.package is None or _imports_all(catalogue, package)
    reference = ("name", name) if registered else ("_target_", f"{module}.{attribute}")
    component = Component(reference, signature_of(f"{module}.{attribute}", catalogue.source), None)
    text = component_yaml(kind, name, component.signature, reference, places=places_of(kind, options.place))
    config = check_inside(project.configs / kind.folder / f"{name}.yaml", project.root)
    check_absent({config: text})

    generated = Generated(project)
    files |= {} if imports is None else {project.file: imports}
    if not config.exists():
        files[config] = text
        generated.remember(config, text, by="add", **component.facts(kind))
    if not options.dry_run:
        generated.write(files)
    for path in files:
        print(f"{short(path)}: {'would write' if options.dry_run else 'written'}")
    if options.dry_run:
        return
    tell_next(kind, name, component)
    print(f"      edit {short(code)}; python -m pytest {short(_test(project.root, kind, name))} tries it")


def add_domain(options: Namespace) -> None:
    """Begin an installable package of components."""
    name, project = check_name(options.name, "a domain"), here()
    folder = project.root / name
    words = {"name": name, "module": f"{name}.loss", "attribute": f"{name}_loss"}
    files = {
        folder / "pyproject.toml": filled("domain/pyproject.toml", **words),
        folder / "README.md": filled("domain/README.md", **words),
        folder / name / "__init__.py": filled("domain/__init__.py", **words),
        folder / name / "loss.py": filled("domain/loss.py", **words),
        folder / "tests" / f"test_{name}_loss.py": filled("new/loss_test.py", **words),
    }
    check_absent(files)
    for path in files:
        check_inside(path, project.root)
    if not options.dry_run:
        write_together(files)
    for path in files:
        print(f"{short(path)}: {'would write' if options.dry_run else 'written'}")
    print(f"{short(folder / name / '__init__.py')} names its components; runs know them once it is installed")
    print(f"next: pip install -e {short(folder)}")
    print(f"      accelerator add loss {name}_loss, or accelerator add --sync for all of it")


def _code(root: Path, package: str, kind: Kind, name: str) -> dict[Path, str]:
    """The files of a new component but its YAML, with those of the packages around it."""
    attribute = name if kind.name in _FUNCTIONS else camel(name)
    words = {"name": name, "Class": camel(name), "module": f"{package}.{kind.name}.{name}", "attribute": attribute}
    return {
        root / package / "__init__.py": filled("new/package.py"),
        root / package / kind.name / "__init__.py": "",
        root / package / kind.name / f"{name}.py": filled(f"new/{kind.name}.py", **words),
        _test(root, kind, name): filled(f"new/{kind.name}_test.py", **words),
    }


def _test(root: Path, kind: Kind, name: str) -> Path:
    return root / "tests" / f"test_{kind.name}_{name}.py"


def _imports_all(catalogue: Catalogue, package: str) -> bool:
    module = catalogue.source.module(package)
    return module is not None and imports_all(module)
