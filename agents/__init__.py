"""Simulated users: one file per kind of user model.

Imported as ``recsim_env.agents``. The folder stands at the top level of the repository and is mounted into the
package, because under the bare name it would overwrite files of other distributions.
"""

if __name__ != "recsim_env.agents":
    raise ImportError("Import 'recsim_env.agents', not 'agents': the folder is mounted inside the package recsim_env.")
