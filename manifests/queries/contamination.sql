-- Records by what of them the base holds by nature: share of their 13-grams, longest match in tokens.
select perturbation, c.record_id, r.n_tokens, longest, round(coverage, 3) as coverage, occurrences
from coverage c
join records r using (record_id)
where longest > 0
order by coverage desc, longest desc, c.record_id;
