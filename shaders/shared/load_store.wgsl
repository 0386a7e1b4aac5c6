// Typed loads and stores of four channels. f16 lies as pairs in u32, so that no shader feature is needed;
// arithmetic is f32. `x`, `w` and `y` have types of their own: flags X_F16, W_F16, Y_F16.
// With the flag STORES_Y the shader declares `y: array<YElem>` and `control: Control`.

#for T in X W Y
#ifdef ${T}_F16
alias ${T}Elem = vec2<u32>;
fn load_${T}(e: ${T}Elem) -> vec4<f32> {
    return vec4<f32>(unpack2x16float(e.x), unpack2x16float(e.y));
}
#else
alias ${T}Elem = vec4<f32>;
fn load_${T}(e: ${T}Elem) -> vec4<f32> {
    return e;
}
#endif
#endfor

#ifdef STORES_Y
#ifdef Y_F16
// Drivers may round pack2x16float either way; rounding to 11 significant bits first (ties to even) makes
// the packing exact and every driver agree. Below 2^-14 the spacing is 2^-24, that of f32 in 0.5..1.
fn round_to_half(v: vec4<f32>) -> vec4<f32> {
    let bits = bitcast<vec4<u32>>(v);
    let odd = (bits >> vec4<u32>(13u)) & vec4<u32>(1u);
    let normal = bitcast<vec4<f32>>((bits + vec4<u32>(0xfffu) + odd) & vec4<u32>(0xffffe000u));
    let tiny = ((abs(v) + vec4<f32>(0.5)) - vec4<f32>(0.5)) * sign(v);
    return select(normal, tiny, (bits & vec4<u32>(0x7fffffffu)) < vec4<u32>(0x38800000u));
}

// Bits are compared as integers: a driver may assume that there are no NaNs. 0x477fe000 is 65504.
fn store_y(at: u32, v: vec4<f32>) {
    if (any((bitcast<vec4<u32>>(v) & vec4<u32>(0x7fffffffu)) > vec4<u32>(0x477fe000u))) {
        atomicOr(&control.status, STATUS_NARROW);
    }
    let r = round_to_half(v);
    y[at] = vec2<u32>(pack2x16float(r.xy), pack2x16float(r.zw));
}
#else
fn store_y(at: u32, v: vec4<f32>) {
    y[at] = v;
}
#endif
#endif
