"""Reads where the pods of a run may run, from the options and the pod template."""

from __future__ import annotations

from byok8s.batch.placement import Placement
from byok8s.batch.placement_text import override
from byok8s.exceptions import SettingsError
from byok8s.run.parsing import read_values
from byok8s.settings import PlacementSettings


def read_placement(settings: PlacementSettings) -> Placement:
    """What the options and the template say. Raises SettingsError."""
    from byok8s.batch.rehearsal import sample_pod
    from byok8s.batch.security import below_restricted

    template = ""
    if settings.pod_template is not None:
        template = _template(settings)
    placement = override(
        Placement(template=template, privileged=settings.allow_privileged),
        settings.wishes,
        settings.option,
    )
    if template and not settings.allow_privileged:
        low = below_restricted(sample_pod(placement, "image"))
        if low:
            raise SettingsError(
                f"'{settings.pod_template}' goes below Pod Security 'restricted' with "
                f"{', '.join(low)}; leave that out, or allow it with --allow-privileged."
            )
    return placement


def _template(settings: PlacementSettings) -> str:
    from byok8s.batch.template import read_template

    assert settings.pod_template is not None
    path = settings.pod_template.expanduser()
    if not (path.is_file() or path.is_fifo()):
        raise SettingsError(f"The pod template '{path}' is not there; check --pod-template.")
    return read_template(read_values(path), str(path))
