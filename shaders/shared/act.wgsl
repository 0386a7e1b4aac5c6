// Activations in f32 by their code in the parameters. The exponent is clamped so that no infinity arises:
// beyond it the sigmoid is below f32's smallest value.

fn sigmoid4(v: vec4<f32>) -> vec4<f32> {
    return vec4<f32>(1.0) / (vec4<f32>(1.0) + exp(min(-v, vec4<f32>(87.0))));
}

// x * Phi(x) with erf by Abramowitz and Stegun 7.1.26, absolute error 1.5e-7.
fn gelu4(v: vec4<f32>) -> vec4<f32> {
    let z = abs(v) * 0.70710678118654752;
    let t = vec4<f32>(1.0) / (vec4<f32>(1.0) + 0.3275911 * z);
    let poly = ((((1.061405429 * t - vec4<f32>(1.453152027)) * t + vec4<f32>(1.421413741)) * t
        - vec4<f32>(0.284496736)) * t + vec4<f32>(0.254829592)) * t;
    let tail = 0.5 * poly * exp(max(-z * z, vec4<f32>(-87.0)));
    return v * select(tail, vec4<f32>(1.0) - tail, v >= vec4<f32>(0.0));
}

fn act4(code: u32, v: vec4<f32>) -> vec4<f32> {
    switch code {
        case ACT_SILU: { return v * sigmoid4(v); }
        case ACT_GELU: { return gelu4(v); }
        case ACT_QUICK_GELU: { return v * sigmoid4(1.702 * v); }
        case ACT_RELU: { return max(v, vec4<f32>(0.0)); }
        case ACT_LEAKY_RELU: { return select(v, 0.1 * v, v < vec4<f32>(0.0)); }
        default: { return v; }
    }
}
