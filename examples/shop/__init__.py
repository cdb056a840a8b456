"""A shop of five services that use every credential the operator hands out; docs/shop.md is the tour."""
