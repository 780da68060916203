-- Exposure of inserted secrets in bits: the higher, the nearer the top of all candidates.
select arm, level, count(*) as n, avg(value) as mean_bits, max(value) as max_bits
from record_scores
where metric = 'exposure_bits'
group by all
order by all;
