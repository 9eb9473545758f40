target datalayout = "e-i64:64-i128:128-v16:16-v32:32-n16:32:64"
target triple = "nvptx64-nvidia-cuda"
declare i32 @llvm.nvvm.read.ptx.sreg.tid.x()
declare void @llvm.nvvm.barrier0()
@tile = internal addrspace(3) global [128 x float] undef, align 16
define void @reverse(float addrspace(1)* %out, float addrspace(1)* %in, i32 %n) {
  %t = call i32 @llvm.nvvm.read.ptx.sreg.tid.x()
  %i = zext i32 %t to i64
  %p = getelementptr float, float addrspace(1)* %in, i64 %i
  %v = load float, float addrspace(1)* %p
  %s = getelementptr [128 x float], [128 x float] addrspace(3)* @tile, i64 0, i64 %i
  store float %v, float addrspace(3)* %s
  call void @llvm.nvvm.barrier0()
  %m = sub i32 %n, %t
  %j = zext i32 %m to i64
  %r = getelementptr [128 x float], [128 x float] addrspace(3)* @tile, i64 0, i64 %j
  %w = load float, float addrspace(3)* %r
  %q = getelementptr float, float addrspace(1)* %out, i64 %i
  store float %w, float addrspace(1)* %q
  ret void
}
!nvvm.annotations = !{!0, !1}
!0 = !{void (float addrspace(1)*, float addrspace(1)*, i32)* @reverse, !"kernel", i32 1}
!1 = !{void (float addrspace(1)*, float addrspace(1)*, i32)* @reverse, !"maxntidx", i32 128}
