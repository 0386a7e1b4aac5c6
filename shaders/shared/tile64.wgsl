// One workgroup of 64 invocations multiplies a tile of 64 rows x 16 K by 16 K x 64 columns out of workgroup
// memory; each invocation keeps 8 rows x 8 columns: rows `ty * 8 ..`, columns `tx * 8 ..`.
// Rows of `a_tile` have one vector of padding, so that lanes of different rows hit different banks.

const A_PITCH: u32 = 5u;
var<workgroup> a_tile: array<vec4<f32>, 320>;
var<workgroup> b_tile: array<vec4<f32>, 256>;
#for P in 0..8
var<private> acc${P}_0: vec4<f32>;
var<private> acc${P}_1: vec4<f32>;
#endfor

fn multiply_tiles(tx: u32, ty: u32) {
    for (var k4 = 0u; k4 < 4u; k4++) {
#for P in 0..8
        let a${P} = a_tile[(ty * 8u + ${P}u) * A_PITCH + k4];
#endfor
#for J in 0..4
        let b${J}_0 = b_tile[(k4 * 4u + ${J}u) * 16u + tx * 2u];
        let b${J}_1 = b_tile[(k4 * 4u + ${J}u) * 16u + tx * 2u + 1u];
#for P in 0..8
        acc${P}_0 += a${P}[${J}] * b${J}_0;
        acc${P}_1 += a${P}[${J}] * b${J}_1;
#endfor
#endfor
    }
}
