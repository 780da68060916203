-- Exposure of secrets in bits at the last checkpoint: the higher, the nearer the top of all candidates.
select r.arm, s.level, count(*) as n, avg(s.value) as mean_bits, max(s.value) as max_bits
from record_scores s
join runs r using (run)
where s.metric = 'exposure_bits' and s.step = r.steps
group by all
order by all;
