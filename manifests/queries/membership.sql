-- Can attacks tell the records that a run has read from held-out ones? Areas under the curve at the last checkpoints; gates should be at .5.
select m.perturbation, coalesce(cast(m.level as varchar), 'all') as level, m.gate, m.run, m.step, m.tier, m.attack, m.reference,
       m.n_members, m.n_nonmembers, round(m.auc, 3) as auc, round(m.ci_low, 3) as ci_low, round(m.ci_high, 3) as ci_high,
       m.p_value, m.p_adjusted, round(m.tpr_01, 3) as tpr_01, round(m.fpr_01, 4) as fpr_01
from membership m
order by m.perturbation, m.gate, m.run, m.step, m.tier, m.attack, m.reference, m.level nulls last;
