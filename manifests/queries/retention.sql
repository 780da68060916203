-- What records acquired by the end of their phase, what of it the last checkpoint has, and the half-life in steps and tokens.
select r.perturbation, r.treated, r.factor, r.metric, r.level, r.phase_end, r.step, r.acquired, r.kept, r.share, r.share_low,
       r.share_high, r.half_life, cast(r.half_life * a.tokens / a.steps as bigint) as half_life_tokens, r.censored
from retention r
join arms a on a.arm = split_part(r.treated, '.', 1)
where r.step = (select max(step) from retention s where s.treated = r.treated and s.control = r.control)
order by r.perturbation, r.treated, r.factor, r.metric, r.level;
