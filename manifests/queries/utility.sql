-- Loss on the validation documents, treated less control, with its interval and whether the pair is equivalent within 0.01 nats.
select treated, control, step, n, estimate, ci_low, ci_high, margin, p_equivalent, p_equivalent < 0.05 as equivalent, method
from effects
where estimand = 'utility'
order by treated, step;
