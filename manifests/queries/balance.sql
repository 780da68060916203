-- Did randomization balance the levels? Mean length per cell, and its distance from the held-out records.
select perturbation, draw, stratum, level, records, clusters, round(mean_tokens, 1) as mean_tokens,
       round(std_difference, 2) as std_difference
from balance
order by all;
