"""Projects and tasks over HTTP, equal to what SQL counts by the same filter: the API hides archived rows, and done ones unless
they are asked for."""

from __future__ import annotations

from collections.abc import Collection

from .model import READING, Check, in_archon, works
from .stored import counts
from .world import World

# Users go on working: what differs because of them is looked at again.
_TRIES = 4


def check_reading(world: World) -> Check:
    """GET /api/projects and /api/tasks. Raises AlignError."""
    differences: list[str] = []
    for _ in range(_TRIES):
        before = counts(world.session)
        projects = world.archon.projects()
        one = world.archon.project(projects[0].id) if projects else None
        open_tasks = len(world.archon.tasks())
        all_tasks = len(world.archon.tasks(include_closed=True))
        after = counts(world.session)
        tasks, titles = after["tasks"], {project.id: project.title for project in projects}
        differences = [
            *_differ("projects", len(projects), {len(after["projects"])}),
            *([] if titles == after["projects"] else ["their ids or titles are not those in the table"]),
            *(
                []
                if one is None or one.title == after["projects"].get(one.id)
                else ["a project's title is another by its id"]
            ),
            *_differ("open tasks", open_tasks, {tasks["open"], tasks["open_only_false"]}),
            # Versions differ in whether archived tasks are hidden from those who ask for closed ones, too.
            *_differ(
                "tasks with closed ones",
                all_tasks,
                {tasks["unarchived"], tasks["unarchived_only_false"], tasks["total"]},
            ),
        ]
        if not differences:
            return works(
                READING,
                f"{len(projects)} projects, {open_tasks} open tasks and {all_tasks} with closed ones over HTTP, as SQL counts them"
                f" ({tasks['total']} tasks with those that the API hides).",
            )
        if before == after:
            break
    return in_archon(
        READING, "reading_differs", f"HTTP and SQL differ: {'; '.join(differences)}. See that the address is PROD's."
    )


def _differ(what: str, found: int, expected: Collection[int]) -> list[str]:
    return [] if found in expected else [f"{found} {what} instead of {' or '.join(map(str, sorted(expected)))}"]
