"""Configuration: `schema` names and checks the keys, `compose` reads their values, `resolve` fills in nulls.

`dataset`, `augmentation` and `sweep` are large groups of the schema, `checks` has the rules for values, `options` which
keys an option has, `keys` suggestions for misspelled keys, and `overrides` deals with overrides as they are typed.
`recipe` lets typed options win over a recipe, `paths` makes paths absolute.
"""
