"""Scenario files (YAML) that ship with the package; this folder holds nothing else.

Imported as ``recsim_env.scenarios``. The folder stands at the top level of the repository and is mounted into the
package, because under the bare name it would overwrite files of other distributions.
"""

if __name__ != "recsim_env.scenarios":
    raise ImportError(
        "Import 'recsim_env.scenarios', not 'scenarios': the folder is mounted inside the package recsim_env."
    )
