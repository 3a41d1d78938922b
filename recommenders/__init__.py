"""Recommenders: one file per policy.

Imported as ``recsim_env.recommenders``. The folder stands at the top level of the repository and is mounted into the
package, because under the bare name it would overwrite files of other distributions.
"""

if __name__ != "recsim_env.recommenders":
    raise ImportError(
        "Import 'recsim_env.recommenders', not 'recommenders': the folder is mounted inside the package recsim_env."
    )
