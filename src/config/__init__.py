"""Configuration: `schema` names and checks the keys, `compose` reads their values, `resolve` fills in nulls.

`dataset`, `augmentation` and `sweep` are the schema's large groups, `checks` the checker; `keys` lists all keys,
`overrides` is about settings as they are typed.
"""
