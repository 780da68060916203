-- Nats per token against the tokens read since the last copy, by arm and level.
select r.arm, f.step, f.level, count(*) as n, cast(avg(f.tokens_since) as bigint) as mean_tokens_since,
       avg(f.value) as nll_token
from forgetting f
join runs r using (run)
where f.probe = 'likelihood' and f.metric = 'nll_token'
group by all
order by all;
