"""The causes of the catalogue, one file each, with everything about it: sign, facts, predicate, object, mend."""
