"""A folder that was renamed or copied: its database knows the comparison by its former name."""

from __future__ import annotations

import dataclasses

import optuna

from hiddenkey.lab.plans.agreement import terms_of
from hiddenkey.lab.plans.plan import Plan
from hiddenkey.lab.queue.storage import open_storage, storage_errors


def under_its_name(plan: Plan) -> Plan:
    """Return the plan under the name that the database in its folder has for it.

    A comparison is named by its folder, so that several may share a database. The file in the
    folder holds one comparison, whatever the folder is called by now. Where there are several, or
    none, the plan keeps its name.

    Args:
        plan: whose name follows from its folder, and was not given by the user.

    Raises:
        ConfigError: if the folder's database cannot be read.
    """
    store = plan.job_store
    if store.own_file is None or not store.own_file.is_file():
        return plan
    with storage_errors(store):
        storage = open_storage(store)
        try:
            found = optuna.get_all_study_summaries(storage, include_best_trial=False)
        finally:
            storage.engine.dispose()
    # those of searches have no terms of their own
    known = [each.study_name for each in found if terms_of(each) is not None]
    if plan.name in known or len(known) != 1:
        return plan
    return dataclasses.replace(plan, study=known[0])
